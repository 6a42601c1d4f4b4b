"""A channel's line on record, whoever writes which receipt when, and how often: it is what the receipts say."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.router_world import DATABASE, database_url

from retally_router.tiling import ADD_RECEIPTS, Tiling

#: By cumFrom, receipts that may overlap.
lengths = st.dictionaries(st.integers(0, 40), st.integers(1, 9))
fees = st.lists(st.integers(1, 2**44), min_size=1, max_size=8)


async def record(redis: Any, closed: int, *receipt: int | str) -> Tiling:
    """A receipt, if one is given, is written down."""
    return Tiling.of_reply(await redis.eval(ADD_RECEIPTS, 2, "channel", "earmarks", closed, *receipt))


async def play(url: str, tiles: list[tuple[int, int]], order: list[int], knows: list[bool]) -> None:
    """Two processes, each of which knows of its own receipts alone, write them in that order."""
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        own, written, billed = [Tiling(), Tiling()], Tiling(), dict[bytes, bytes]()
        for number in order:
            start, to = tiles[number]
            process = own[number % 2]
            process.add(start, to)
            written.add(start, to)
            recorded = await record(redis, process.closed, start, to, f"job {number}")
            assert recorded == written
            # Once for its own job, and beside that for the channel.
            billed[b"job %d" % number] = b"0|0|0|%d" % (to - start)
            assert await redis.hgetall("earmarks") == billed
            total = await redis.hmget("channel", "billed", "kept")
            assert [int(each or 0) for each in total] == [written.billed, -written.billed]
            if knows[number]:
                process.add_all(recorded)
                assert process == written
        if set(order) == set(range(len(tiles))):
            assert written == Tiling(tiles[-1][1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fees=fees, data=st.data())
def test_two_that_write_one_channel_end_with_one_line(redis_url: str, fees: list[int], data: st.DataObject) -> None:
    ends = [sum(fees[: number + 1]) for number in range(len(fees))]
    tiles = list(zip([0, *ends], ends, strict=False))
    numbers = st.integers(0, len(tiles) - 1)
    # Each once in any order, then some of them again: a write whose answer was lost is made anew.
    order = data.draw(st.permutations(range(len(tiles)))) + data.draw(st.lists(numbers, max_size=6))
    knows = data.draw(st.lists(st.booleans(), min_size=len(tiles), max_size=len(tiles)))
    asyncio.run(play(database_url(redis_url, DATABASE), tiles, order, knows))


async def test_receipts_that_contradict_each_other_bill_no_less_and_leave_nothing(redis_url: str) -> None:
    async with Redis.from_url(database_url(redis_url, DATABASE)) as redis:
        await redis.flushdb()

        async def add(closed: int, *bounds: int) -> Tiling:
            return await record(redis, closed, *bounds, *(("job",) if bounds else ()))

        assert await add(0, 10, 30) == Tiling(0, {10: 30})
        # The same start, and less.
        assert await add(0, 10, 11) == Tiling(0, {10: 30})
        assert await add(0, 0, 20) == Tiling(20)
        # By what the node counts.
        assert await add(0, 40, 50) == Tiling(20, {40: 50})
        assert await add(45) == Tiling(45)
        assert await redis.hgetall("channel") == {b"closed": b"45", b"billed": b"45", b"kept": b"-50"}
        assert await redis.hgetall("earmarks") == {b"job": b"0|0|0|50"}


@given(a=lengths, b=lengths)
def test_what_a_node_bills_twice_counts_once(a: dict[int, int], b: dict[int, int]) -> None:
    one, other = Tiling(), Tiling()
    for tiling, starts in ((one, a), (other, b)):
        for start, length in starts.items():
            tiling.add(start, start + length)
    closed = max(one.closed, other.closed)
    one.add_all(other)
    assert one.closed >= closed
    assert all(start > one.closed for start in one.beyond)
    spans = sorted(one.beyond.items())
    assert all(to <= start for (_, to), (start, _) in pairwise(spans))
    assert one.billed <= max([one.closed, *one.beyond.values()])
