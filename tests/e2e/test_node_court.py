"""Jury duty against the real Court: three jurors with loops of their own, from the draw to the verdict."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.conftest import RunningAnvil
from tests.fakes import FakeEngine
from tests.fakes_node import tiny_format
from tests.fakes_node_ports import FakeEvidence

from retally.chain.connection import Chain
from retally.chain.court import CaseStatus, Opening
from retally.chain.deploy import ANVIL_KEY, Catalogue, Model, Profile, deploy
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.inference.chat_format import ChatFormat
from retally.protocol.case import Shown, VerdictKind
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak, to_hex
from retally.protocol.voucher import NodeAuth
from retally_node.court_view import ChainCases, ChainCourt
from retally_node.jury import Jury
from retally_node.ledger import Ledger
from retally_node.weigh_case import CaseScale, OwnReplayer

RUSD = 10**6
MODEL_ID, PROFILE_ID = keccak(b"court e2e model"), keccak(b"court e2e profile")
URI = "https://challenger/evidence"
FILE = b'{"version": 1}'
ACCUSED, CHALLENGER = (SigningKey(keccak(b"court e2e " + name)) for name in (b"accused", b"challenger"))
JURORS = [SigningKey(keccak(b"court e2e juror %d" % n)) for n in range(3)]


async def fund(chain: Chain, key: SigningKey, role: Role | None) -> TxSender:
    sender = TxSender(chain, key)
    await chain.rpc.request("anvil_setBalance", key.address, hex(10**20))
    await sender.send(chain.asset.call("faucet", key.address, 2_000 * RUSD))
    if role is not None:
        await sender.send(chain.asset.approve(chain.staking.address, 2_000 * RUSD))
        await sender.send(chain.staking.stake(role, 2_000 * RUSD))
    return sender


async def enlist(chain: Chain, owner: SigningKey, sender: TxSender) -> None:
    """Register a node of the owner and let it stand for jury duty."""
    node = SigningKey(keccak(b"court e2e node " + owner.address.encode()))
    consent = NodeAuth(owner.address, node.address, chain.clock.now() + 600)
    signature = node.sign(consent.digest(chain.domain))
    await sender.send(chain.registry.register_node(consent, signature, MODEL_ID, PROFILE_ID, "http://node"))
    await sender.send(chain.juror_pools.enlist(node.address))


def juror(chain: Chain, key: SigningKey, sender: TxSender, folder: Path, chat_format: ChatFormat) -> Jury:
    engine = FakeEngine(vocab_size=chat_format.vocab_size)
    pair = (Bytes32(bytes(32)), Bytes32(bytes(32)))
    own = OwnReplayer(engine, chat_format.render, chat_format.eos_ids, *pair, chat_format.grammars)
    scale = CaseScale(ChainCases(chain, None), own, chain.domain)
    ledger = Ledger(folder / f"{key.address}.sqlite")
    evidence = FakeEvidence({URI: FILE})
    return Jury(ledger, ChainCourt(chain, sender, key.address), evidence, scale, key.address, chain.clock)


@pytest.fixture
def deployment(anvil: RunningAnvil) -> Deployment:
    """Contracts of this test's own, so that nobody else's operators are drawn."""
    pair = Catalogue([Model(to_hex(MODEL_ID), 200, "a model", "")], [Profile(to_hex(PROFILE_ID), "")])
    return Deployment.from_json(deploy(anvil.url, ANVIL_KEY, catalogue=pair))


async def test_a_file_that_proves_nothing_ends_inconclusive_by_jury(
    anvil: RunningAnvil, deployment: Deployment, tmp_path: Path
) -> None:
    async with Chain(anvil.url, deployment) as chain:
        await enlist(chain, ACCUSED, await fund(chain, ACCUSED, Role.OPERATOR))
        challenger = await fund(chain, CHALLENGER, None)
        chat_format = tiny_format(tmp_path / "model")
        senders = [await fund(chain, key, Role.OPERATOR) for key in JURORS]
        for key, sender in zip(JURORS, senders, strict=True):
            await enlist(chain, key, sender)
        jury = [juror(chain, key, sender, tmp_path, chat_format) for key, sender in zip(JURORS, senders, strict=True)]
        await challenger.send(chain.asset.approve(chain.court.address, await chain.court.opening_cost()))
        # Who bonds in the second of the opening is no juror of it.
        await chain.rpc.request("evm_increaseTime", hex(5))
        shown = [Shown(1, keccak(b"receipt"), CHALLENGER.address, 5)]
        pool = await chain.juror_pools.pool_of(MODEL_ID, PROFILE_ID)
        await challenger.send(chain.court.open(Opening(ACCUSED.address, pool, shown, keccak(FILE), URI)))
        await asyncio.gather(*(member.step() for member in jury))
        assert (await chain.court.case_of(1)).status == CaseStatus.DRAWING

        await chain.rpc.request("anvil_mine", hex(10))
        await challenger.send(chain.court.draw(1))
        await asyncio.gather(*(member.step() for member in jury))
        await challenger.send(chain.court.advance(1))
        await chain.rpc.request("evm_increaseTime", hex(2))
        await chain.rpc.request("anvil_mine", hex(1))
        await chain.clock.refresh()
        await asyncio.gather(*(member.step() for member in jury))
        state = await chain.court.round_of(1, 0)
        assert (state.size, state.committed, state.revealed) == (3, 3, 3)
        await challenger.send(chain.court.decide(1))
        case = await chain.court.case_of(1)
        # Inconclusive asks a larger jury.
        assert (case.round, case.enlarged) == (1, True)
        assert (await chain.court.vote_of(1, 0, 0)).verdict == VerdictKind.INCONCLUSIVE
        for member in jury:
            assert member._ledger.votes.unfinished_votes() == []
            member._ledger.close()
