"""Who replays for a command: nodes of other owners within a limit, engines that say what they lack."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_held_job import DEPLOYMENT, FINISHED, NODE, PAYER, HeldJob, held_job

from retally.chain.registry import NodeEntry
from retally.cli.scorers import WalletPurse, paid_node
from retally.errors import BadRequest, SpendingLimitExceeded
from retally.node_client import NodeClient
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_ADDRESS, Address, Bytes32, keccak
from retally.wallet import Wallet

OWNER, OTHER, SIBLING = (SigningKey(keccak(name)).address for name in (b"owner", b"other", b"sibling"))
SCORER = SigningKey(keccak(b"scorer")).address


@dataclass
class FakeRegistry:
    """Nodes as told."""

    nodes: dict[Address, NodeEntry] = field(default_factory=dict)

    async def node(self, node: Address) -> NodeEntry:
        empty = Bytes32(bytes(32))
        return self.nodes.get(node, NodeEntry(node, ZERO_ADDRESS, empty, empty, 0, 0, ""))

    async def node_owner(self, node: Address) -> Address:
        return (await self.node(node)).owner

    async def are_siblings(self, a: Address, b: Address) -> bool:
        return {a, b} == {OWNER, SIBLING}


@dataclass
class FakeChain:
    """A chain with a registry."""

    registry: FakeRegistry


@pytest.fixture
def job(tmp_path: Path) -> HeldJob:
    return asyncio.run(held_job(tmp_path))


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    opened = Wallet(PAYER, DEPLOYMENT.domain, tmp_path)
    yield opened
    opened.close()


async def scorer(job: HeldJob, **changes: Any) -> Any:
    entry = NodeEntry(SCORER, OTHER, job.model_id, Bytes32(keccak(b"p")), 1, 0, "http://scorer")
    served = replace(entry, node=NODE.address, owner=OWNER)
    chain: Any = FakeChain(FakeRegistry({SCORER: replace(entry, **changes), NODE.address: served}))
    nothing: Any = None
    return await paid_node(chain, NodeClient(1), nothing, SCORER, [job.receipt])


class TestPaidNode:
    async def test_of_another_owner_may_score(self, job: HeldJob) -> None:
        found = await scorer(job)
        assert (found.name, found.profile_id) == (f"node {SCORER}", keccak(b"p"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"owner": OWNER}, "whom it would judge"),
            ({"owner": SIBLING}, "whom it would judge"),
            ({"owner": ZERO_ADDRESS}, "no registered node"),
            ({"revoked_at": 9}, "no registered node"),
            ({"model_id": Bytes32(keccak(b"another"))}, "another model"),
        ],
    )
    async def test_others_may_not(self, job: HeldJob, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(BadRequest, match=message) as refused:
            await scorer(job, **changes)
        assert "retally nodes" in refused.value.hint


class TestPurse:
    async def test_promises_no_more_than_the_limit(self, job: HeldJob, wallet: Wallet) -> None:
        request = replace(job.evidence.request, max_fee=60) if job.evidence.request is not None else None
        assert request is not None
        node = NodeEntry(SCORER, OTHER, job.model_id, Bytes32(bytes(32)), 1, 0, "")
        purse = WalletPurse(wallet, 100)
        signed = await purse.prepay(node, request)
        assert (signed.voucher.cumulative, signed.voucher.payer) == (60, PAYER.address)
        receipt = replace(
            job.receipt, job_id=request.digest(DEPLOYMENT.domain), node=SCORER, lane=wallet.lane, cum_from=0, cum_to=50
        )
        await purse.settle(receipt)
        assert (purse.spent, wallet.line(SCORER).closed) == (50, 50)
        with pytest.raises(SpendingLimitExceeded):
            await purse.prepay(node, replace(request, nonce=keccak(b"next"), deadline=FINISHED))
