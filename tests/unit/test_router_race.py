"""A race between two nodes: whoever loses, or wins for nobody, is told so, so that what it holds is given back."""

from __future__ import annotations

import asyncio

import pytest

from retally_router.hedge import Race

pytestmark = pytest.mark.asyncio


async def answer(value: str, seconds: float, *, lingers: float = 0.0) -> str:
    """A node that answers, or takes its time to leave."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await asyncio.sleep(lingers)
        raise
    return value


async def test_winner_is_given_back_where_nobody_waits_for_it_any_more() -> None:
    lost: list[str] = []
    race = Race[str](lost.append)
    run = asyncio.create_task(race.run(answer("slow", 60, lingers=60), lambda: answer("quick", 0.01), 0.01))
    await asyncio.sleep(0.1)
    # It has won, and the loser takes its time.
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert lost == ["quick"]


async def test_winner_is_not_given_back_to_whoever_waits() -> None:
    lost: list[str] = []
    race = Race[str](lost.append)
    assert await race.run(answer("slow", 60), lambda: answer("quick", 0.01), 0.01) == "quick"
    assert lost == []


@pytest.mark.parametrize("turns", range(8))
async def test_every_result_is_taken_up_or_given_back_whenever_who_waits_leaves(turns: int) -> None:
    lost: list[str] = []
    taken: list[str] = []
    both = asyncio.Event()

    async def attempt(value: str) -> str:
        await both.wait()
        return value

    async def run() -> None:
        taken.append(await Race[str](lost.append).run(attempt("first"), lambda: attempt("second"), 0.01))

    waiting = asyncio.create_task(run())
    await asyncio.sleep(0.03)
    # Both have a result in the same turn.
    both.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.sleep(0)
    assert sorted(taken + lost) == ["first", "second"]
