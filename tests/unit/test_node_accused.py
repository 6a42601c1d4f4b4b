"""The accused itself: what its own engine says of the answers that a case shows, and what its node makes of that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from tests.fakes import FakeEngine
from tests.fakes_case import URI, Colder, committed, honest, judge
from tests.fakes_node import START, World, open_world

from retally.errors import EngineUnavailable, NotFound
from retally.inference.engine import Scores
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import keccak
from retally_node.defence import Accusation
from retally_node.own_evidence import AccusedScale

LOST = Accusation(1, 0, VerdictKind.MISMATCH, START + 86_400, 0, own_job=False)


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
