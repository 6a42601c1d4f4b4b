"""Fixtures shared by all tests: each heavy program starts once per session, as real as in production."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from retally.chain.deploy import ANVIL_KEY, deploy
from retally.devnet.anvil import Anvil
from retally.devnet.catalogue import devnet_market
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.network import Network
from retally.devnet.options import NetworkOptions
from retally.devnet.processes import end_marked
from retally.devnet.redis_server import RedisServer
from retally.devnet.tools import devnet_model_dir
from tests.books import Books
from tests.fakes_node import World as NodeWorld
from tests.fakes_node import embedding_changes, open_world
from tests.lease_world import LeaseWorld, line


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start, also where the shell started pytest with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class RunningAnvil:
    """A chain that mines a block for each transaction."""

    url: str
    pid: int


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of everything that runs for the whole session; its path marks the processes."""
    folder = tmp_path_factory.mktemp("session")
    yield folder
    end_marked(str(folder))


@pytest.fixture(scope="session")
def anvil(session_folder: Path) -> Iterator[RunningAnvil]:
    """A fresh chain 31337."""
    chain = Anvil(session_folder / "anvil", mark=str(session_folder))
    asyncio.run(chain.start())
    yield RunningAnvil(chain.url, chain.service.pid)
    asyncio.run(chain.stop())


@pytest.fixture(scope="session")
def chain_deployment(anvil: RunningAnvil, session_folder: Path, model_dir: Path) -> Path:
    """A deployment file of all contracts on the session's chain."""
    path = session_folder / "deployment.json"
    deployed = deploy(anvil.url, ANVIL_KEY, catalogue=devnet_market(model_dir).catalogue)
    path.write_text(json.dumps(deployed), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def redis_url(session_folder: Path) -> Iterator[str]:
    """A Redis of the session's own."""
    server = RedisServer(session_folder / "redis", mark=str(session_folder))
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """An empty database of it."""
    async with Redis.from_url(redis_url.rstrip("/").removesuffix("/0") + "/6") as client:
        await client.flushdb()
        yield client


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The model that ships with retally."""
    return devnet_model_dir()


@pytest.fixture(scope="session")
def engine_url(session_folder: Path, model_dir: Path) -> Iterator[str]:
    """A real vLLM server with the devnet's model and retally's sampler.

    RETALLY_TEST_ENGINE_URL names one that runs already, which saves its start while one works on a single test.
    """
    if running := os.environ.get("RETALLY_TEST_ENGINE_URL"):
        yield running
        return
    server = EngineServer(
        model_dir,
        session_folder / "engine",
        mark=str(session_folder),
        model_name=model_name_of(model_dir),
        # One bound thread: several would wait for each other while all else shares their cores.
        cores=share_cores(1)[0],
    )
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def devnet(session_folder: Path, engine_url: str) -> Iterator[Network]:
    """A whole network on the session's engine: three nodes, router, verifier, a payer with an API key."""
    network = Network(NetworkOptions(home=session_folder / "devnet", engine_urls={"honest": engine_url}))
    with asyncio.Runner() as runner:
        runner.run(network.start())
        yield network
        runner.run(network.stop())


@pytest.fixture
async def embedder(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    """A node for embeddings with everything around it."""
    world = await open_world(tmp_path, max_context=64, **embedding_changes(tmp_path))
    yield world
    await world.close()


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    """A payer with a thousand; tests of other worlds make their own."""
    return LeaseWorld(redis, balance=1000)


@pytest.fixture
def books(world: LeaseWorld) -> Books:
    """Those of that payer's first channel."""
    return Books(world.redis, line(0))
