"""Lanes: leased by one process at a time, renewed, adopted from the dead."""

from __future__ import annotations

import asyncio
import functools
import time

import pytest
from redis.asyncio import Redis
from tests.lease_world import Breaking

from retally.errors import Unavailable
from retally_router.lanes import Lanes


class TestLanes:
    def lanes(self, redis: Redis, holder: str, count: int = 2) -> Lanes:
        return Lanes(redis, count=count, holder=holder, lease_seconds=0.4)

    async def test_replicas_never_share_a_lane(self, redis: Redis) -> None:
        one, two, three = (self.lanes(redis, f"host{n}:1:1") for n in range(3))
        await one.start(0)
        await two.start(0)
        assert (one.current, two.current) == (0, 1)
        with pytest.raises(Unavailable):
            await three.start(0)
        await one.close()
        await three.start(0)
        assert three.current == 0
        await two.close()
        await three.close()

    async def test_renews_its_lease(self, redis: Redis) -> None:
        lanes = self.lanes(redis, "host:1:1")
        await lanes.start(1)
        await asyncio.sleep(0.8)
        assert lanes.current == 1
        await lanes.close()

    async def test_writes_nothing_once_the_lease_is_lost(self, redis: Redis) -> None:
        lanes = self.lanes(redis, "host:1:1", count=1)
        await lanes.start(0)
        await redis.set("retally:lane:0", "elsewhere:2:2")
        await asyncio.sleep(0.6)
        with pytest.raises(Unavailable):
            _ = lanes.current
        await lanes.close()

    async def test_lease_that_ran_out_in_a_busy_router_is_renewed_before_a_job_is_refused(self, redis: Redis) -> None:
        lanes = self.lanes(redis, "host:1:1", count=1)
        await lanes.start(0)
        time.sleep(0.6)  # noqa: ASYNC251  # this is what is tested: a loop that stands still
        with pytest.raises(Unavailable):
            _ = lanes.current
        assert await asyncio.gather(*[lanes.held() for _ in range(20)]) == [0] * 20
        await redis.set("retally:lane:0", "elsewhere:2:2")
        time.sleep(0.6)  # noqa: ASYNC251  # this is what is tested: a loop that stands still
        with pytest.raises(Unavailable):
            await lanes.held()
        await lanes.close()

    async def test_adopts_the_lane_of_a_dead_process_only(self, redis: Redis) -> None:
        lanes = self.lanes(redis, "host:1:1")
        await redis.set("retally:lane:1", "elsewhere:2:2")
        assert not await lanes.adopt(1)
        await redis.delete("retally:lane:1")
        assert await lanes.adopt(1)
        await lanes.close()
        assert await redis.get("retally:lane:1") is None

    async def test_a_taking_whose_answer_was_lost_is_no_renewal(self, redis: Redis) -> None:
        told: list[None] = []
        store = Breaking(redis)
        lanes = Lanes(
            store, count=2, holder="host:1:1", lease_seconds=0.4, lapsed=[functools.partial(told.append, None)]
        )
        other = self.lanes(redis, "elsewhere:2:2")
        await lanes.start(0)
        await asyncio.sleep(0.3)
        assert (lanes.current, told) == (0, [])
        # It lapses, another has it for a while; what it hears of its next taking is nothing.
        store.is_gone = True
        await asyncio.sleep(0.5)
        await other.start(0)
        assert other.current == 0
        await other.close()
        store.is_gone, store.is_late = False, True
        await asyncio.sleep(0.3)
        assert (await redis.get("retally:lane:0") or b"").startswith(b"host:1:1")
        assert told == []
        store.is_late = False
        assert (await lanes.held(), bool(told)) == (0, True)
        count = len(told)
        await asyncio.sleep(0.3)
        assert len(told) == count
        await lanes.close()
