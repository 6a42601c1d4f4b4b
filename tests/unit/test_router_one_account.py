"""A channel has one account, also where idle ones are forgotten while a job waits for what covers it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN
from tests.holds_world import Asking
from tests.lease_world import NODE
from tests.router_world import router_world

from retally.protocol.wire import ChannelState
from retally_router.channels import Channels
from retally_router.check_frames import Placed
from retally_router.tiling import Tiling


class SlowApi:
    """A node that shows a new channel once it is let."""

    def __init__(self) -> None:
        self.shows = asyncio.Event()

    async def channel(self, *_: Any) -> dict[str, Any]:
        await self.shows.wait()
        self.shows.clear()
        return ChannelState(best=0, best_signature=None, last_cum_to=0, due=0, open=0, unpaid=0).to_wire()


class EmptyLog:
    """Of a channel that was never written to."""

    async def totals(self, _: Any) -> tuple[int, Tiling]:
        return 0, Tiling()

    async def past_jobs(self, *_: Any) -> list[Any]:
        return []

    async def promised_for(self, *_: Any) -> dict[str, int]:
        return {}


async def test_it_is_loaded_once_by_those_who_waited_and_who_came_after() -> None:
    api, credit = SlowApi(), SimpleNamespace(promise=None)
    channels = Channels(cast(Any, api), cast(Any, EmptyLog()), cast(Any, credit), DOMAIN)
    placed = SimpleNamespace(node=SimpleNamespace(node=NODE, endpoint="http://node"), lane=0)

    def opening() -> asyncio.Task[Any]:
        return asyncio.create_task(channels.open(cast(Any, Asking()), cast(Any, placed)))

    opened = [opening(), opening()]
    await asyncio.sleep(0.01)
    # The lane lapses, and one more comes, after the first has it and before the second does.
    api.shows.set()
    asyncio.get_running_loop().call_soon(channels.drop_idle)
    opened.append(opening())
    for _ in range(2):
        await asyncio.sleep(0.01)
        api.shows.set()
    _, waited, came = await asyncio.gather(*opened)
    assert channels.accounts() == [waited]
    assert waited is came


async def test_it_is_shared_with_a_job_that_came_after_the_lapse(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = FakeNode("a", seconds_per_token=0.01)
    async with router_world(redis_url, [node]) as world:
        channels, waits, goes_on = world.router.channels, asyncio.Event(), asyncio.Event()
        cover = channels.cover

        async def waiting(placed: Placed, most: int, **how: Any) -> None:
            await cover(placed, most, **how)
            if not waits.is_set():
                waits.set()
                await goes_on.wait()

        monkeypatch.setattr(channels, "cover", waiting)
        first = asyncio.create_task(world.ask(seed=1))
        await waits.wait()
        # As where the lane has lapsed.
        channels.drop_idle()
        second = asyncio.create_task(world.ask(seed=2))
        for _ in range(400):
            if node.jobs:
                break
            await asyncio.sleep(0.005)
        goes_on.set()
        answers = await asyncio.gather(first, second)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert await world.settled()
        fees = sum(int(answer.headers["x-retally-cost"]) for answer in answers)
        (account,) = channels.accounts()
        assert (account.tiling.closed, account.open, account.tiling.beyond) == (fees, {}, {})
        (line,) = node.lines.values()
        assert line.cum_to == fees <= line.best
        assert await world.redis.llen("retally:faults") == 0
