"""A second node for a job that the first keeps waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from retally.errors import NodeUnavailable, RetallyError
from retally_router.hedge import BURST, LEAST_SECONDS, HedgeBudget, Race, late_after


class Attempts:
    """What a race did with its attempts."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.cancelled: list[str] = []
        self.asked = 0
        self.race = Race[str](self.lost.append)

    async def attempt(self, name: str, seconds: float, *, fails: bool = False, stubborn: bool = False) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if stubborn:
                return name
            self.cancelled.append(name)
            raise
        if fails:
            raise NodeUnavailable(name)
        return name

    def second(self, other: Coroutine[None, None, str] | None) -> Coroutine[None, None, str] | None:
        self.asked += 1
        return other


async def test_a_first_in_time_is_alone() -> None:
    seen = Attempts()
    assert await seen.race.run(seen.attempt("a", 0.0), lambda: seen.second(None), 5.0) == "a"
    assert (seen.asked, seen.lost, seen.cancelled) == (0, [], [])


async def test_a_late_first_loses_to_a_quick_second_and_is_cancelled() -> None:
    seen = Attempts()
    found = await seen.race.run(seen.attempt("a", 60.0), lambda: seen.second(seen.attempt("b", 0.0)), 0.01)
    assert found == "b"
    assert (seen.asked, seen.cancelled) == (1, ["a"])


async def test_a_late_first_may_still_win() -> None:
    seen = Attempts()
    found = await seen.race.run(seen.attempt("a", 0.05), lambda: seen.second(seen.attempt("b", 60.0)), 0.01)
    assert (found, seen.cancelled) == ("a", ["b"])


async def test_without_a_second_the_first_is_waited_for() -> None:
    seen = Attempts()
    assert await seen.race.run(seen.attempt("a", 0.05), lambda: seen.second(None), 0.01) == "a"
    assert seen.asked == 1


@pytest.mark.parametrize("first_fails", [True, False])
async def test_whoever_fails_the_other_is_waited_for(first_fails: bool) -> None:
    seen = Attempts()
    first = seen.attempt("a", 0.03 if first_fails else 0.06, fails=first_fails)
    second = seen.attempt("b", 0.06 if first_fails else 0.01, fails=not first_fails)
    assert await seen.race.run(first, lambda: seen.second(second), 0.01) == ("b" if first_fails else "a")


async def test_a_first_that_fails_in_time_is_no_reason_for_a_second() -> None:
    seen = Attempts()
    with pytest.raises(RetallyError):
        await seen.race.run(seen.attempt("a", 0.0, fails=True), lambda: seen.second(None), 1.0)
    assert seen.asked == 0


async def test_when_both_fail_the_last_error_is_told() -> None:
    seen = Attempts()
    second = seen.attempt("b", 0.05, fails=True)
    with pytest.raises(NodeUnavailable, match="b"):
        await seen.race.run(seen.attempt("a", 0.03, fails=True), lambda: seen.second(second), 0.01)


async def test_a_loser_with_a_result_is_handed_back() -> None:
    seen = Attempts()
    second = seen.attempt("b", 0.0)
    assert await seen.race.run(seen.attempt("a", 60.0, stubborn=True), lambda: seen.second(second), 0.01) == "b"
    assert seen.lost == ["a"]


async def test_a_cancelled_race_leaves_nothing_running() -> None:
    seen = Attempts()
    second = seen.attempt("b", 60.0, stubborn=True)
    running = asyncio.create_task(seen.race.run(seen.attempt("a", 60.0), lambda: seen.second(second), 0.01))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (seen.cancelled, seen.lost) == (["a"], ["b"])


def test_the_budget_is_a_share_of_the_jobs_and_a_small_burst() -> None:
    budget, hedges = HedgeBudget(0.02), 0
    for _ in range(1000):
        budget.earn()
        hedges += budget.take()
    assert 19 <= hedges <= 20
    for _ in range(1000):
        budget.earn()
    assert sum(budget.take() for _ in range(100)) == BURST


def test_without_a_share_nothing_is_hedged() -> None:
    budget = HedgeBudget(0.0)
    budget.earn()
    assert not budget.take()


def test_late_is_a_multiple_of_what_was_predicted() -> None:
    assert late_after(0.0) == LEAST_SECONDS
    assert late_after(2.0) == 6.0
