"""`retally reexecute` on the real contracts: what it refuses, opens, serves, moves on, and takes up again (R-67)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from retally.chain.connection import Chain
from retally.chain.court import CaseStatus
from retally.chain.transactions import TxSender
from retally.errors import (
    BadRequest,
    Conflict,
    InsufficientFunds,
    InvalidReceipt,
    NodeUnavailable,
    Unavailable,
)
from retally.evidence_server import evidence_path, serve_evidence
from retally.inclusion import Inclusion
from retally.node_client import NodeClient, NodeEndpoint
from retally.own_job import (
    CaseFollower,
    OpenedCase,
    check_court,
    check_may_ask,
    evidence_file,
    find_case,
    is_closed,
    open_case,
    pool_of,
)
from retally.protocol.encoding import Address, Bytes32, keccak, to_hex
from retally.protocol.evidence_file import EvidenceFile
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import AnswerBundle
from retally_verifier.open_case import CaseOpener
from retally_verifier.records import CaseRecord
from retally_verifier.store import Store
from tests.contracts.court.cases import FEE, TIP
from tests.contracts.court.cases import open_case as open_drawn_case
from tests.contracts.court.crash_ground import deployment_of
from tests.contracts.court.crash_nodes import PROMPT_TOKENS, FakeFormat, bundles_of
from tests.contracts.court.ledger import DAY, GOVERNOR, OPERATOR
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, STAKE, Commit, World, key

URI = "http://payer/evidence"


class Showing(NodeClient):
    """The nodes of a commit: they show where its receipts stand."""

    def __init__(self, commit: Commit | None) -> None:
        super().__init__(timeout_seconds=1)
        self._commit = commit

    async def _call(self, method: str, node: NodeEndpoint, path: str, body: object = None) -> dict[str, Any]:
        if self._commit is None:
            return {"inclusions": []}
        tree, record = self._commit.tree, self._commit.record
        found = [
            Inclusion(job.leaf, record, index, len(tree.jobs), tuple(tree.proof(index)))
            for index, job in enumerate(tree.jobs)
            if to_hex(job.receipt.job_id) == path.split("/")[4]
        ]
        return {"inclusions": [item.to_wire() for item in found]}


@dataclass
class Suit:
    """A payer with a collected job, and a chain to go to court on."""

    world: World
    chain: Chain
    commit: Commit
    answer: AnswerBundle

    @property
    def sender(self) -> TxSender:
        return TxSender(self.chain, self.world.payer)

    async def file(self, nodes: NodeClient | None = None) -> EvidenceFile:
        bare = replace(self.answer, index=0, leaf_count=0, proof=())
        return await evidence_file(self.chain, nodes or Showing(self.commit), bare, FakeFormat().render)

    async def opened(self) -> OpenedCase:
        pool = await pool_of(self.chain, self.answer.receipt)
        return await open_case(self.chain, self.sender, await self.file(), pool, URI)

    async def voted(self, case: OpenedCase, verdict: int) -> None:
        """All jurors vote alike."""
        await asyncio.to_thread(lambda: self.world.vote(case.id, 0, dict.fromkeys(self.jurors(case), verdict)))

    def jurors(self, case: OpenedCase) -> list[str]:
        return list(self.world.ledger.court.functions.jurorsOf(case.id, 0).call())


@pytest.fixture
async def suit(world: World) -> AsyncIterator[Suit]:
    jobs = [job.changed(finish_reason=FinishReason.MOVED) for job in world.jobs(3, prompt_tokens=PROMPT_TOKENS)]
    commit = world.collect(Tree.of(jobs))
    world.ledger.rpc("anvil_setBalance", world.payer.address, hex(10**20))
    deployment = deployment_of(world.ledger)
    async with Chain(world.ledger.web3.provider.endpoint_uri, deployment) as chain:  # type: ignore[attr-defined]  # HTTP
        yield Suit(world, chain, commit, bundles_of(commit.tree)[0])


class TestRefusals:
    """Each is raised before anything is paid."""

    async def test_only_the_payer_may_ask(self, suit: Suit) -> None:
        with pytest.raises(BadRequest, match="paid for this job") as refused:
            check_may_ask(suit.answer.receipt, suit.answer, suit.world.friend.address)
        assert "--address" in refused.value.hint

    async def test_nothing_billed_is_nothing_to_pay_back(self, suit: Suit) -> None:
        receipt = replace(suit.answer.receipt, cum_to=suit.answer.receipt.cum_from)
        with pytest.raises(BadRequest, match="bills nothing"):
            check_may_ask(receipt, suit.answer, suit.world.payer.address)

    async def test_a_job_that_forbids_audit_is_not_worth_the_fee(self, suit: Suit) -> None:
        answer = replace(suit.answer, request=replace(suit.answer.request, audit_consent=False))
        with pytest.raises(BadRequest, match="forbids audit") as refused:
            check_may_ask(answer.receipt, answer, suit.world.payer.address)
        assert "retally verify" in refused.value.hint

    async def test_a_wallet_must_hold_the_cost(self, suit: Suit) -> None:
        assert await check_court(suit.chain, suit.world.payer.address) == FEE + 7 * TIP
        poor = "0x00000000000000000000000000000000000000EE"
        with pytest.raises(InsufficientFunds) as refused:
            await check_court(suit.chain, poor)
        assert (refused.value.needed, refused.value.available) == (FEE + 7 * TIP, 0)
        assert "wallet" in refused.value.hint

    async def test_a_paused_court_takes_no_cases(self, suit: Suit) -> None:
        ledger = suit.world.ledger
        ledger.send(ledger.court.functions.pause(ledger.now() + DAY), GOVERNOR)
        with pytest.raises(Unavailable, match="takes no new cases"):
            await check_court(suit.chain, suit.world.payer.address)

    async def test_somebody_must_be_able_to_judge(self, suit: Suit) -> None:
        receipt = replace(suit.answer.receipt, profile_id=Bytes32(keccak(b"rare")))
        with pytest.raises(Unavailable, match="nobody has enlisted"):
            await pool_of(suit.chain, receipt)

    async def test_no_fee_is_risked_before_a_pool_that_is_not_ready(self, suit: Suit) -> None:
        ledger, receipt = suit.world.ledger, suit.answer.receipt
        assert await pool_of(suit.chain, receipt) == 1
        ledger.send(ledger.pools.functions.resign(receipt.model_id, receipt.profile_id), suit.world.owners[-1])
        with pytest.raises(Unavailable, match="too few have enlisted"):
            await pool_of(suit.chain, receipt)

    async def test_a_job_that_was_not_collected_has_no_case(self, suit: Suit) -> None:
        with pytest.raises(Conflict, match="not collected") as refused:
            await suit.file(Showing(None))
        assert refused.value.code == "not_collected"

    async def test_a_commit_that_the_chain_does_not_know_is_none(self, suit: Suit) -> None:
        record = replace(suit.commit.record, id=99)
        with pytest.raises(InvalidReceipt, match="commit was made"):
            await suit.file(Showing(replace(suit.commit, record=record)))

    async def test_what_no_juror_would_take_is_not_brought(self, suit: Suit) -> None:
        suit.answer = replace(suit.answer, output_ids=(9, *suit.answer.output_ids[1:]))
        with pytest.raises(BadRequest, match="no juror would take"):
            await suit.file()

    async def test_a_node_out_of_reach_shows_nothing(self, suit: Suit) -> None:
        with pytest.raises(NodeUnavailable):
            await suit.file(NodeClient(timeout_seconds=1))


class TestCase:
    async def test_the_file_is_what_its_case_names(self, suit: Suit) -> None:
        case = await suit.opened()
        file = await suit.file()
        assert (case.evidence_hash, case.evidence_uri, case.shown) == (file.hash, URI, file.shown(suit.chain.domain))
        state = await suit.chain.court.case_of(case.id)
        assert (state.own_job, state.owner) == (True, suit.world.cheat)

    async def test_is_found_again_instead_of_paid_for_twice(self, suit: Suit) -> None:
        receipt, payer = suit.answer.receipt, suit.world.payer.address
        assert await find_case(suit.chain, payer, receipt) is None
        case = await suit.opened()
        assert await find_case(suit.chain, payer, receipt) == case
        assert await find_case(suit.chain, suit.world.friend.address, receipt) is None
        others = bundles_of(suit.commit.tree)[1].receipt
        assert await find_case(suit.chain, payer, others) is None

    @pytest.mark.parametrize("verdict", [MATCH, MISMATCH])
    async def test_is_moved_on_to_its_end(self, suit: Suit, verdict: int) -> None:
        world, fee = suit.world, suit.answer.receipt.fee
        before = world.ledger.balance(world.payer.address)
        case = await suit.opened()
        follower = CaseFollower(suit.chain, suit.sender, case)
        assert (await follower.step()).status == CaseStatus.DRAWING
        world.ledger.mine(6)
        assert (await follower.step()).status == CaseStatus.VOTING
        assert (await follower.step()).status == CaseStatus.VOTING
        await suit.voted(case, verdict)
        await suit.chain.clock.refresh()
        decided = await follower.step()
        assert (decided.status, decided.verdict) == (CaseStatus.DECIDED, verdict)
        assert not is_closed(await follower.step())
        world.ledger.jump(2 * DAY)
        await suit.chain.clock.refresh()
        assert is_closed(await follower.step())
        end = await follower.end()
        assert (end.verdict, end.refunded) == (verdict, FEE + fee if verdict == MISMATCH else 0)
        assert before - world.ledger.balance(world.payer.address) == FEE + 7 * TIP
        # All tips came back: nobody else took a step but the closing of the votes, which pays nothing.
        assert await suit.chain.court.credit(world.payer.address) == 7 * TIP
        assert await suit.chain.staking.credit(world.payer.address) == end.refunded

    async def test_where_no_jury_can_be_seated_the_fee_is_the_accuseds(self, suit: Suit) -> None:
        world = suit.world
        case = await suit.opened()
        for node in world.nodes[1:]:
            owner = world.ledger.registry.functions.nodeOwner(node.address).call()
            world.ledger.send(world.ledger.registry.functions.revokeNode(node.address), owner)
        with pytest.raises(Unavailable, match="too few have enlisted"):
            await pool_of(suit.chain, suit.answer.receipt)
        follower = CaseFollower(suit.chain, suit.sender, case)
        for _ in range(3):
            world.ledger.mine(6)
            world.ledger.jump(2 * DAY)
            await suit.chain.clock.refresh()
            state = await follower.step()
        assert is_closed(state)
        assert (await follower.end()).verdict == INCONCLUSIVE
        assert await suit.chain.court.credit(world.payer.address) == 7 * TIP
        assert await suit.chain.court.credit(Address(world.cheat)) == FEE

    async def test_a_step_that_another_took_first_is_no_error(self, suit: Suit) -> None:
        case = await suit.opened()
        suit.world.ledger.mine(6)
        first, second = (CaseFollower(suit.chain, suit.sender, case) for _ in range(2))
        assert (await first.step()).status == (await second.step()).status == CaseStatus.VOTING


class TestVerifier:
    async def test_an_own_job_keeps_no_case_from_being_opened(self, suit: Suit, tmp_path: Path) -> None:
        store = Store(tmp_path / "verifier.sqlite")
        opener = CaseOpener(suit.chain, TxSender(suit.chain, key("verifier 0")), store, "http://verifier")
        owner = suit.world.cheat
        case = await suit.opened()
        assert not await opener._has_unbooked_case(owner)
        store.put_case(CaseRecord(case.id, owner, suit.world.payer.address, case.evidence_hash, b"", False, 0))
        assert not await opener._has_booked_case(owner)
        other = open_drawn_case(suit.world).id
        assert await opener._has_unbooked_case(owner)
        store.put_case(CaseRecord(other, owner, suit.world.challenger, case.evidence_hash, b"", False, 0))
        assert await opener._has_booked_case(owner)
        store.close()

    async def test_goes_on_once_there_is_stake_that_no_case_took(self, suit: Suit, tmp_path: Path) -> None:
        world, chain = suit.world, suit.chain
        opener = CaseOpener(chain, TxSender(chain, key("verifier 0")), Store(tmp_path / "verifier.sqlite"), "http://v")
        owner = Address(world.cheat)
        assert not await opener._has_paid(owner, chain.clock.now())
        open_drawn_case(world).judged(MISMATCH)
        await chain.clock.refresh()
        assert await opener._has_paid(owner, chain.clock.now())
        ledger = world.ledger
        ledger.send(ledger.asset.functions.faucet(owner, STAKE), owner)
        ledger.send(ledger.asset.functions.approve(ledger.staking.address, STAKE), owner)
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        assert not await opener._has_paid(owner, chain.clock.now())


class TestEvidenceServer:
    def test_serves_the_one_file(self) -> None:
        data = b'{"version": 1}'
        with serve_evidence(data, keccak(data), "127.0.0.1", 0) as port:
            base = f"http://127.0.0.1:{port}"
            assert httpx2.get(base + evidence_path(keccak(data))).content == data
            refused = httpx2.get(base + evidence_path(keccak(b"other")))
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
            with pytest.raises(Conflict, match="is taken"), serve_evidence(data, keccak(data), "127.0.0.1", port):
                pass
