"""What a router finds again after it died: its promises, its open jobs, its lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from tests.fakes_router import FakeNode
from tests.router_world import World, chat, router_world

from retally_router.channel_state import ChannelAccount


async def until(met: Callable[[], bool], seconds: float = 8.0) -> None:
    """Waits for background work."""
    for _ in range(int(seconds / 0.05)):
        if met():
            return
        await asyncio.sleep(0.05)
    assert met()


async def some(find: Callable[[], list[ChannelAccount]]) -> list[ChannelAccount]:
    """Waits until something is found."""
    await until(lambda: bool(find()))
    return find()


async def break_off(world: World) -> None:
    """A stream that still runs when the router goes down."""
    body = chat(stream=True, max_tokens=400)
    try:
        async with world.http.stream("POST", "/v1/chat/completions", json=body, headers=world.auth) as answer:
            async for _ in answer.aiter_bytes():
                break
            await world.router.settle.close()
    except httpx.TransportError:
        return


class TestRestart:
    async def test_goes_on_from_redis_and_the_nodes_best_voucher(self, redis_url: str) -> None:
        nodes = [FakeNode("a")]
        async with router_world(redis_url, nodes) as world:
            assert (await world.ask()).status_code == 200
            await world.settled()
            key = world.api_key
        async with router_world(redis_url, nodes, keep=True) as world:
            world.api_key = key
            world.chain.fund(world.payer.address)
            assert (await world.ask(seed=5)).status_code == 200
            await world.settled()
            (line,) = nodes[0].lines.values()
            assert line.best >= line.cum_to

    async def test_a_lost_store_loses_no_promise(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")]) as world:
            assert (await world.ask()).status_code == 200
            await world.settled()
            account = world.router.channels.accounts()[0]
            await world.redis.delete(f"retally:{{{world.payer.address}}}:credit")
            keys = [key async for key in world.redis.scan_iter("retally:*:channel:*")]
            await world.redis.delete(*keys)
            world.router.channels.drop_idle()
            assert (await world.ask(seed=9)).status_code == 200
            again = world.router.channels.accounts()[0]
            assert again is not account
            assert again.promised >= account.promised

    async def test_forgets_what_an_earlier_life_had_counted_but_not_forgotten(self, redis_url: str) -> None:
        nodes = [FakeNode("a", seconds_per_token=0.01)]
        async with router_world(redis_url, nodes) as world:
            key, payer = world.api_key, world.payer.address
            opened, credit = f"retally:{{{payer}}}:open", f"retally:{{{payer}}}:credit"
            body = chat(stream=True, max_tokens=30)
            async with world.http.stream("POST", "/v1/chat/completions", json=body, headers=world.auth) as answer:
                parts = answer.aiter_bytes()
                await anext(parts)
                left, held = await world.redis.hgetall(opened), await world.redis.hgetall(credit)
                async for _ in parts:
                    continue
            assert await world.settled()
            await world.redis.hset(opened, mapping=left)
            holds = {name: value for name, value in held.items() if name.startswith(b"hold:")}
            (value,) = holds.values()
            await world.redis.hset(credit, mapping={**holds, b"hold:" + b"ab" * 32: value})
        async with router_world(redis_url, nodes, keep=True) as world:
            world.api_key = key
            assert (await world.ask(seed=5)).status_code == 200
            assert await world.settled()
            (account,) = world.router.channels.accounts()
            await until(lambda: not account.open)
            await asyncio.sleep(0.3)
            assert await world.redis.hlen(opened) == 0
            assert not {*holds, b"hold:" + b"ab" * 32} & set(await world.redis.hkeys(credit))
            assert account.tiling.closed == nodes[0].lines[account.channel.key].cum_to

    async def test_settles_what_an_earlier_life_left_open(self, redis_url: str) -> None:
        nodes = [FakeNode("a", seconds_per_token=0.02)]
        async with router_world(redis_url, nodes) as world:
            await break_off(world)
            key, payer = world.api_key, world.payer.address
            await world.router.settle.close()
        async with router_world(redis_url, nodes, keep=True) as world:
            assert await world.redis.hlen(f"retally:{{{payer}}}:open") == 1
            world.api_key = key
            nodes[0].seconds_per_token = 0
            assert (await world.ask(seed=5)).status_code == 200
            (account,) = world.router.channels.accounts()
            line = nodes[0].lines[account.channel.key]
            await until(lambda: not account.open and account.tiling.closed == line.cum_to)
            assert await world.settled()
            assert line.best >= line.cum_to
            await asyncio.sleep(0.2)
            assert await world.redis.hlen(f"retally:{{{payer}}}:open") == 0

    async def test_adopts_a_dead_replicas_lane_once_its_lease_ends(self, redis_url: str) -> None:
        nodes = [FakeNode("a", seconds_per_token=0.02)]
        async with router_world(redis_url, nodes) as world:
            await break_off(world)
            key, payer = world.api_key, world.payer.address
            await world.router.settle.close()
        async with router_world(redis_url, nodes, keep=True, lane_lease_seconds=0.5) as world:
            await world.redis.set("retally:lane:0", "elsewhere:1:1", px=900)
            world.api_key = key
            nodes[0].seconds_per_token = 0
            lanes: set[int] = set()
            for seed in range(40):
                assert (await world.ask(seed=seed)).status_code in (200, 503)
                lanes |= {account.channel.lane for account in world.router.channels.accounts()}
                if await world.redis.hlen(f"retally:{{{payer}}}:open") == 0 and seed > 10:
                    break
                await asyncio.sleep(0.1)
            assert lanes >= {0, 1}
            assert await world.settled()
            assert all(line.best >= line.cum_to for line in nodes[0].lines.values())
            assert await world.redis.hlen(f"retally:{{{payer}}}:open") == 0

    async def test_ends_a_lease_of_an_earlier_life_whenever_the_store_has_it_again(self, redis_url: str) -> None:
        nodes = [FakeNode("a")]
        async with router_world(redis_url, nodes, credit_lease_jobs=32) as world:
            assert (await world.ask()).status_code == 200
            key, credit = world.api_key, f"retally:{{{world.payer.address}}}:credit"
            held = await world.redis.hgetall(credit)
            (old,) = [name for name in held if name.startswith(b"hold:lease:")]
        more = {"credit_lease_jobs": 32, "lane_lease_seconds": 0.5}
        async with router_world(redis_url, nodes, keep=True, **more) as world:
            world.api_key = key
            assert (await world.ask(seed=2)).status_code == 200
            await world.redis.hset(credit, old, held[old])
            await world.redis.hdel(credit, "counted")
            await asyncio.sleep(0.6)
            assert (await world.ask(seed=3)).status_code == 200
            assert not await world.redis.hexists(credit, old)

    async def test_waits_no_longer_to_be_paid_than_a_receipt_counts(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("retally_router.settle_jobs.LAST_DELAY_SECONDS", 0.2)
        nodes = [FakeNode("a", seconds_per_token=0.02)]
        async with router_world(redis_url, nodes) as world:
            await break_off(world)
            key, payer = world.api_key, world.payer.address
            await world.router.settle.close()
        async with router_world(redis_url, nodes, keep=True) as world:
            opened = f"retally:{{{payer}}}:open"
            world.api_key, nodes[0].vouchers_refused = key, True
            # Nothing is left for another job.
            world.chain.fund(payer, 1)
            assert (await world.ask(seed=5)).status_code == 402
            (account,) = await some(lambda: world.router.channels.accounts())
            # What the node tells it is owed, and never gets.
            account.tiling.closed = account.claimed = account.delivered + 1
            await until(lambda: bool(account.once_paid))
            await asyncio.sleep(1)
            assert await world.redis.hlen(opened) == 1
            world.clock.time += 8 * 86_400
            await asyncio.sleep(1)
            assert await world.redis.hlen(opened) == 0
