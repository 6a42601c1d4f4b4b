"""What the fuzzed router stands on: anvil with all contracts, a Redis, a node that signs for real, payers with keys."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.fakes_router import FakeNode
from tests.fakes_world import served

from retally.chain.connection import Chain
from retally.chain.deploy import ANVIL_KEY, deploy
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.devnet.anvil import Anvil
from retally.devnet.api_key import create_api_key
from retally.devnet.catalogue import Market, devnet_market
from retally.devnet.configs import write_config
from retally.devnet.options import RUSD
from retally.devnet.parties import Party
from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers, wait_routable
from retally.devnet.redis_server import RedisServer
from retally.devnet.tools import devnet_model_dir
from retally.protocol.eip712 import SigningKey, keccak

STAKE, DEPOSIT = 5_000 * RUSD, 100_000 * RUSD
MODEL = "retally/fake"


@dataclass(frozen=True)
class FuzzedRouter:
    """A running router, and what its clients need."""

    port: int
    node: FakeNode
    service: Service
    api_key: str
    hostile_key: str

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def cpu_seconds(self) -> float:
        """Its processor time so far."""
        times = psutil.Process(self.service.pid).cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Its resident bytes."""
        return int(psutil.Process(self.service.pid).memory_info().rss)


@asynccontextmanager
async def fuzzed_router(folder: Path, settings: dict[str, Any]) -> AsyncIterator[FuzzedRouter]:
    """Starts all of it, and ends it."""
    mark, market = str(folder), devnet_market(devnet_model_dir())
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder, mark=mark)
        await redis.start()
        stack.push_async_callback(redis.stop)
        anvil = await stack.enter_async_context(Anvil(folder, mark=mark, block_time_seconds=1))
        deployed = await asyncio.to_thread(deploy, anvil.url, ANVIL_KEY, catalogue=market.catalogue)
        path = folder / "deployment.json"
        path.write_text(json.dumps(deployed), encoding="utf-8")
        chain = await Chain(anvil.url, Deployment.load(path)).start()
        stack.push_async_callback(chain.close)
        node = await _node(stack, anvil, chain, market)
        port = free_port()
        more = {"redis_url": redis.url, "port": port, **settings}
        service = _router(folder, mark, {"rpc_url": anvil.url, "deployment": str(path), **more})
        service.start()
        stack.push_async_callback(service.stop)
        url = f"http://{HOST}:{port}"
        await wait_answers(f"{url}/openapi.json", service)
        await wait_routable(url, MODEL, 1, service)
        keys = [await _payer(url, name, anvil, chain) for name in (b"payer", b"hostile")]
        yield FuzzedRouter(port, node, service, *keys)


async def _node(stack: AsyncExitStack, anvil: Anvil, chain: Chain, market: Market) -> FakeNode:
    node = FakeNode("a", domain=chain.domain, model=MODEL, model_id=market.model_id, profile_id=market.profile_id)
    node.url = await stack.enter_async_context(served(node))
    owner = Party(SigningKey(keccak(b"owner")), anvil, chain)
    await owner.stake(Role.OPERATOR, STAKE)
    await owner.register_node(node.key, market.model_id, market.profile_id, node.url)
    return node


async def _payer(url: str, name: bytes, anvil: Anvil, chain: Chain) -> str:
    payer = Party(SigningKey(keccak(name)), anvil, chain)
    await payer.deposit(DEPOSIT)
    return await create_api_key(url, payer, chain, anvil, DEPOSIT)


def _router(folder: Path, mark: str, settings: dict[str, Any]) -> Service:
    fixed = {"key": "0x" + "11" * 32, "host": HOST, "audited_owners": 1, "require_calibration": False}
    config = write_config(folder / "router.toml", {**fixed, "poll_seconds": 0.2, "log_level": "WARNING", **settings})
    command = [sys.executable, "-m", "retally_router", "--config", str(config)]
    return Service("router", command, folder / "router.log", mark=mark)
