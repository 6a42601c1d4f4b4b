"""A store that hangs while jobs take of leased credit: clients hear of the store, and no node is blamed."""

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
        world.router.channels.drop(account)
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
