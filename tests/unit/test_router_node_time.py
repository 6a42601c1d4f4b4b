"""A node's time: it stands still while the store is waited for, however often, by however many."""

from __future__ import annotations

import asyncio
import time

import pytest

from retally_router.node_time import NodeTime


async def spend(limit: NodeTime, *parts: float) -> None:
    """By turns the node's time and the store's."""
    for number, seconds in enumerate(parts):
        if number % 2:
            with limit.stopped():
                await asyncio.sleep(seconds)
        else:
            await asyncio.sleep(seconds)


async def taken(seconds: float, *parts: float) -> float:
    """How long it took until the node's time was over."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with NodeTime(seconds) as limit:
            await spend(limit, *parts)
    return time.monotonic() - began


async def test_is_over_after_it() -> None:
    assert 0.1 <= await taken(0.1, 5.0) < 0.5


async def test_is_not_over_while_it_stands_still() -> None:
    async with NodeTime(0.1) as limit:
        await spend(limit, 0.05, 0.3, 0.01, 0.3, 0.01)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # The timer is over in the node's time, and in the store's, once and twice.
        ((0.05, 0.05, 5.0), 0.25),
        ((0.15, 0.3, 5.0), 0.5),
        ((0.05, 0.1, 0.05, 0.1, 5.0), 0.4),
        ((0.1, 0.3, 0.05, 0.3, 5.0), 0.8),
    ],
)
async def test_goes_on_for_as_long_as_it_stood_still(parts: tuple[float, ...], expected: float) -> None:
    assert expected - 0.01 <= await taken(0.2, *parts) < expected + 0.3


async def test_stands_still_until_all_have_what_they_asked_for() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with NodeTime(0.1) as limit:
            await asyncio.gather(spend(limit, 0.0, 0.2), spend(limit, 0.0, 0.4), asyncio.sleep(5.0))
    assert 0.49 <= time.monotonic() - began < 0.9


async def test_ends_with_its_block() -> None:
    async with NodeTime(0.05) as limit:
        waiting = asyncio.create_task(spend(limit, 0.0, 0.2))
        await asyncio.sleep(0.1)
    # The store answers only now: nothing is timed any more, and nobody cancelled.
    await waiting
    await asyncio.sleep(0.1)
