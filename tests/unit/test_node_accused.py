"""The accused itself: what its own engine says of the answers that a case shows, and what its node makes of that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from tests.fakes import FakeEngine
from tests.fakes_case import URI, Colder, committed, honest, judge
from tests.fakes_node import OWNER, START, Customer, World, open_world
from tests.fakes_node_ports import FakeClock
from tests.serve_app import serve

from retally.chain.connection import Chain
from retally.chain.court import Appeal, Case, CaseStatus
from retally.chain.transactions import TxSender
from retally.errors import EngineUnavailable, NotFound, UpstreamTimeout
from retally.inference.engine import Scores
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.evidence_file import EPOCH_SECONDS
from retally_node.court_view import ChainCourt, HttpEvidence
from retally_node.defence import Accusation
from retally_node.defence_view import ChainDefence
from retally_node.own_evidence import AccusedScale
from retally_node.weigh_case import CaseFacts

LOST = Accusation(1, 0, VerdictKind.MISMATCH, START + 86_400, 0, own_job=False, opening=(START, Bytes32(bytes(32))))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


def accused_scale(world: World, engine: FakeEngine) -> AccusedScale:
    return AccusedScale(
        world.node.ledger, world.cases, world.evidence, judge(world, engine), world.node.domain
    )  # fmt: skip


class Down(FakeEngine):
    """Serves, and scores nothing."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        raise EngineUnavailable("the engine is down")


async def dripping(scope: Any, receive: Any, send: Any) -> None:
    """Serves a byte at a time, for four seconds."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(80):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b""})


def case_against(owner: Address, opened_at: int) -> Case:
    return Case(
        owner, CaseStatus.DRAWING, 0, 0, 0, enlarged=False, redrawn=False, own_job=False, challenger=owner, pool=1,
        opened_at=opened_at, epoch=0, appeal_end=0, tips=0, shown_hash=Bytes32(bytes(32)),
    )  # fmt: skip


class Cases:
    """A court whose only case may become another one."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.read = 0

    async def case_count(self) -> int:
        return 1

    async def cases_of(self, ids: Sequence[int]) -> dict[int, Case]:
        self.read += len(ids)
        return dict.fromkeys(ids, self.case)


class AppealedCases:
    """Cases of which appeals were made: two of one epoch, of which one is over, and one of the epoch before."""

    def __init__(self) -> None:
        self.cases = {
            number: replace(case_against(OWNER, opened), status=status, appeals=appeals, epoch=opened // EPOCH_SECONDS)
            for number, opened, status, appeals in (
                (1, START - EPOCH_SECONDS, CaseStatus.CLOSED, 2),
                (2, START, CaseStatus.CLOSED, 2),
                (3, START, CaseStatus.DECIDED, 0),
                (4, START, CaseStatus.DECIDED, 0),
            )
        }

    async def case_count(self) -> int:
        return len(self.cases)

    async def case_of(self, case_id: int) -> Case:
        return self.cases[case_id]

    async def cases_of(self, ids: Sequence[int]) -> dict[int, Case]:
        return {case_id: self.cases[case_id] for case_id in ids}

    async def appeals_of(self, case_id: int, count: int) -> tuple[Appeal, ...]:
        # The challenger paid the second one of case 2: against a match.
        against = (VerdictKind.MISMATCH, VerdictKind.MATCH if case_id == 2 else VerdictKind.MISMATCH)
        return tuple(Appeal(OWNER, verdict, 0) for verdict in against[:count])

    async def appeal_cost(self, case_id: int) -> int:
        appeals = self.cases[case_id].appeals if case_id else 0
        return (50 << appeals + 1) + 2

    async def tip(self) -> int:
        return 1

    async def taken_of(self, owner: Address, epoch: int) -> int:
        return 0


async def of_any(*_: object) -> int:
    return 1000


class Facts:
    """What the logs say of such a case."""

    def __init__(self, court: Cases) -> None:
        self.court = court

    async def facts(self, case_id: int) -> CaseFacts:
        case = self.court.case
        pair = (Bytes32(bytes(32)), Bytes32(bytes(32)))
        return CaseFacts(case_id, case.owner, case.opened_at, keccak(b"file"), URI, (), pair)


class TestChainDefence:
    async def test_sees_a_case_whose_number_was_anothers_before_blocks_were_taken_back(self) -> None:
        court, clock = Cases(case_against(Customer().payer, START)), FakeClock(START + 60)
        chain = cast(Chain, SimpleNamespace(court=court, clock=clock))
        view = ChainDefence(chain, cast(TxSender, None), OWNER, cast(ChainCourt, None))
        assert await view.accusations() == []
        court.case = case_against(OWNER, START + 30)
        assert [each.case_id for each in await view.accusations()] == [1]

    async def test_forgets_what_it_knew_of_a_case_that_is_another_one_now(self) -> None:
        court, clock = Cases(case_against(OWNER, START)), FakeClock(START + 60)
        view = ChainDefence(
            cast(Chain, SimpleNamespace(court=court, clock=clock)), cast(TxSender, None), OWNER,
            cast(ChainCourt, Facts(court)),
        )  # fmt: skip
        (first,) = await view.accusations()
        assert (await view.facts(1)).opened_at == (await view.facts(1)).opened_at == START
        court.case = case_against(OWNER, START + 30)
        (second,) = await view.accusations()
        assert first.opening != second.opening
        assert (await view.facts(1)).opened_at == START + 30

    async def test_counts_what_the_epochs_other_cases_took_over_or_not(self) -> None:
        court = AppealedCases()
        chain = SimpleNamespace(
            court=court, clock=FakeClock(START + 7200), asset=SimpleNamespace(balance_of=of_any),
            staking=SimpleNamespace(slashable=of_any, severity_of=of_any), escrow=SimpleNamespace(held_of=of_any),
        )  # fmt: skip
        sender = cast(TxSender, SimpleNamespace(address=OWNER))
        view = ChainDefence(cast(Chain, chain), sender, OWNER, cast(ChainCourt, None))
        assert [each.case_id for each in await view.accusations()] == [3, 4]
        price = await view.price(3)
        assert (price.cost, price.spent, price.spent_in_epoch) == (102, 0, 102)
        # It is appealed, and the other one's turn comes in the same round.
        court.cases[3] = replace(court.cases[3], appeals=1)
        assert (await view.price(4)).spent_in_epoch == 204
        assert ((again := await view.price(3)).cost, again.spent, again.spent_in_epoch) == (202, 102, 204)

    async def test_reads_an_old_case_of_another_once(self) -> None:
        court, clock = Cases(case_against(Customer().payer, START)), FakeClock(START + 7200)
        chain = cast(Chain, SimpleNamespace(court=court, clock=clock))
        view = ChainDefence(chain, cast(TxSender, None), OWNER, cast(ChainCourt, None))
        for _ in range(3):
            assert await view.accusations() == []
        assert court.read == 1


class TestEvidence:
    async def test_that_comes_a_byte_at_a_time_keeps_nobody_waiting(self) -> None:
        late = r"did not come within 1 s \(\d+ bytes did\)"
        with serve(dripping) as url, pytest.raises(UpstreamTimeout, match=late):
            await HttpEvidence(seconds=1).fetch(f"{url}/evidence", 1000)


class TestAccusedScale:
    async def test_says_of_a_file_what_a_juror_says(self, world: World) -> None:
        file, facts = await committed(world)
        own = await accused_scale(world, world.engine).weigh(facts)
        assert own == await judge(world, world.engine).weigh(facts, file)
        assert own.verdict == VerdictKind.MATCH
        await world.close()

    @pytest.mark.parametrize(("engine", "verdict"), [(FakeEngine, VerdictKind.MATCH), (Colder, VerdictKind.MISMATCH)])
    async def test_needs_no_file_that_the_challenger_keeps_to_itself(
        self, tmp_path: Path, engine: type[FakeEngine], verdict: VerdictKind
    ) -> None:
        world = await open_world(tmp_path, make_engine=engine)
        file, facts = await committed(world, jobs=3)
        with_file = await accused_scale(world, honest(world)).weigh(facts)
        world.evidence.files.clear()
        # The chain's own step of the commit; `committed` draws with a shorter one.
        (mined,) = world.node.ledger.commits.commits()
        await world.node.ledger.commits.record_commit(replace(mined, record=file.points[0].commit), [], 1)
        assert await accused_scale(world, honest(world)).weigh(facts) == with_file
        assert with_file.verdict == verdict
        await world.close()

    async def test_another_file_than_named_is_inconclusive(self, world: World) -> None:
        _, facts = await committed(world, jobs=1)
        world.evidence.files[URI] += b" "
        assert (await accused_scale(world, world.engine).weigh(facts)).verdict == VerdictKind.INCONCLUSIVE
        await world.close()

    @pytest.mark.parametrize("lacking", ["the receipt", "the commit", "a drawn point"])
    async def test_without_file_and_books_there_is_no_opinion(self, world: World, lacking: str) -> None:
        _, facts = await committed(world, jobs=1)
        world.evidence.files.clear()
        entry = facts.shown[0]
        if lacking == "the receipt":
            entry = replace(entry, receipt_digest=keccak(b"another node's"))
        if lacking == "the commit":
            entry = replace(entry, commit_id=99)
        if lacking == "a drawn point":
            world.cases.points = []
        with pytest.raises(NotFound, match=r"is not served .* commit"):
            await accused_scale(world, world.engine).weigh(replace(facts, shown=(entry,)))
        await world.close()


class TestNode:
    async def test_defends_its_owner_and_says_so(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        await committed(world, jobs=3)
        world.defence.open_cases[1] = LOST
        await world.node.defence.step()
        assert world.defence.appealed == [(1, 0)]
        (case,) = (await world.node.status())["cases"]
        assert (case["case"], case["ownReplay"], case["isLost"]) == (1, "match", True)
        assert case["state"] == "appealed round 0 for 101.00 rUSD"
        page = generate_latest(world.node.metrics.registry).decode()
        assert "retally_node_cases 1.0" in page
        assert "retally_node_appeals 1.0" in page
        assert "its own replay says match" in caplog.text
        await world.close()

    async def test_one_whose_engine_is_down_says_so_and_waits(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, make_engine=Down)
        await committed(world, jobs=3)
        world.defence.open_cases[1] = LOST
        with pytest.raises(EngineUnavailable):
            await world.node.defence.step()
        assert world.defence.appealed == []
        await world.close()
