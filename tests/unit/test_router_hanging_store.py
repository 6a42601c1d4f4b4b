"""A store that hangs or forgets while jobs take of leased credit: clients hear why, and no node is blamed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes_router import FakeNode
from tests.router_world import World, check_error, router_world

from retally.devnet.redis_server import RedisServer
from retally_router.credit import Credit

NODE_SECONDS = 1.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", mark=str(tmp_path))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def world(server: RedisServer) -> AsyncIterator[World]:
    nodes = [FakeNode("a")]
    async with router_world(server.url, nodes, first_byte_seconds=NODE_SECONDS, credit_lease_jobs=32) as world:
        assert (await world.ask()).status_code == 200
        assert await world.settled()
        yield world


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    os.kill(server.service.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.service.pid, signal.SIGCONT)


@pytest.mark.parametrize(("is_open", "jobs"), [(True, 1), (False, 1), (False, 3)])
async def test_the_client_hears_of_the_store(server: RedisServer, world: World, is_open: bool, jobs: int) -> None:
    (account,) = world.router.channels.accounts()
    if not is_open:
        world.router.channels.drop_idle()
        assert account not in world.router.channels.accounts()
    with hanging(server):
        began = time.monotonic()
        answers = await asyncio.gather(*(world.ask(seed=seed) for seed in range(2, 2 + jobs)))
        assert time.monotonic() - began < 15
    for answer in answers:
        assert "store does not answer" in check_error(answer, 503, "unavailable")["message"]
    seen = world.router.watch.of(world.nodes[0].address)
    assert seen.breaker.failures == 0
    for _ in range(100):
        if (answer := await world.ask(seed=9)).status_code == 200:
            break
        await asyncio.sleep(0.1)
    assert answer.status_code == 200, answer.text


async def test_what_the_store_takes_is_not_the_nodes_time(server: RedisServer, world: World) -> None:
    with hanging(server):
        asking = asyncio.create_task(world.ask(seed=2))
        await asyncio.sleep(1.5 * NODE_SECONDS)
    assert (await asking).status_code == 200


async def test_of_what_it_forgot_a_client_hears_402_and_no_node_has_the_job(world: World) -> None:
    payer, node = world.payer.address, world.nodes[0]
    credit = f"retally:{{{payer}}}:credit"
    (lease,) = await world.redis.hkeys(f"retally:{{{payer}}}:leases")
    _, signer, *_ = (await world.redis.hget(credit, b"hold:" + lease)).decode().split("|")
    # Of the block enough is free, but the store knows it no more, and another holds all there is.
    await world.redis.hdel(credit, b"hold:" + lease, "counted")
    other = Credit(world.redis, lambda payer, signer, _: world.chain.standing(payer, signer))
    promised = int(await world.redis.hget(credit, f"promised:{signer}"))
    await other.hold(payer, signer, "all", 10**9 - promised)
    check_error(await world.ask(seed=2), 402, "cap_exceeded")
    assert len(node.jobs) == 1
    assert world.router.watch.of(node.address).breaker.failures == 0
    assert await world.redis.hlen(f"retally:{{{payer}}}:open") == 0
    assert all(not account.open for account in world.router.channels.accounts())
    await other.release(payer, "all")
    assert (await world.ask(seed=3)).status_code == 200


async def test_a_lease_that_came_back_with_it_ends_again(server: RedisServer) -> None:
    async with router_world(server.url, [FakeNode("a")], credit_lease_jobs=32, lane_lease_seconds=0.5) as world:
        credit = f"retally:{{{world.payer.address}}}:credit"
        assert (await world.ask()).status_code == 200
        held = await world.redis.hgetall(credit)
        (old,) = [name for name in held if name.startswith(b"hold:lease:")]
        for _ in range(100):
            if not await world.redis.hexists(credit, old):
                break
            await asyncio.sleep(0.05)
        await world.redis.hset(credit, old, held[old])
        await world.redis.hdel(credit, "counted")
        assert (await world.ask(seed=2)).status_code == 200
        assert not await world.redis.hexists(credit, old)
