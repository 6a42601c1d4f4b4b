"""A router in a process of its own, over a chain in memory: `python -m tests.serve_router`, its orders on stdin.

Scripts and tests start several over one Redis, and kill them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from retally.protocol.eip712 import Address, SigningKey
from retally_router.bootstrap import Outside, RedisConnection, build_router
from retally_router.http_protocol import RouterProtocol
from retally_router.joined_redis import open_store
from retally_router.logs import configure_logs
from retally_router.node_api import HttpNodeApi
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, FakeChainView, FakeClock
from tests.router_world import ASSET, settings_of

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Orders:
    """What such a router stands on."""

    redis_url: str
    port: int
    replica: int
    #: Name and URL of each node; the names make their keys.
    nodes: dict[str, str]
    #: Deposits by payer.
    deposits: Mapping[str, int]
    price_in: int
    price_out: int
    settings: dict[str, Any] = field(default_factory=dict)


def make_app(orders: Orders) -> Any:
    """The router's app."""
    nodes = [FakeNode(name, orders.price_in, orders.price_out, url=url) for name, url in orders.nodes.items()]
    chain = FakeChainView([node.registered() for node in nodes])
    for payer, deposit in orders.deposits.items():
        chain.fund(Address(payer), deposit, 2**50)
    settings = settings_of(orders.redis_url, replica=orders.replica, **orders.settings)
    configure_logs(settings.log_level)
    api = HttpNodeApi(
        connect_seconds=settings.connect_seconds,
        first_byte_seconds=settings.first_byte_seconds,
        idle_seconds=settings.idle_seconds,
    )
    redis = open_store(orders.redis_url, 5.0)
    outside = Outside(chain, FakeClock(), DOMAIN, redis, api, SigningKey.from_hex("11" * 32), ASSET)
    return build_router(settings, outside, (RedisConnection(redis),)).app


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RouterProcess:
    """One such process."""

    def __init__(self, orders: Orders, folder: Path) -> None:
        self.orders, self.url = orders, f"http://127.0.0.1:{orders.port}"
        self.log = folder / f"router-{orders.replica}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it serves."""
        here = str(Path(__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.serve_router"], stdin=subprocess.PIPE, stdout=log, stderr=log, env=env
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self.orders)).encode())
        self._process.stdin.close()
        self._wait()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status, once it ended."""
        assert self._process is not None
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Ends it at once, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        ends = time.monotonic() + READY_SECONDS
        while time.monotonic() < ends:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the router ended: {self.log.read_text()[-2000:]}")
            try:
                alive = httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False).json()["nodesAlive"]
            except httpx.TransportError:
                alive = 0
            if alive == len(self.orders.nodes):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the router was not ready in {READY_SECONDS:g} s: {self.log.read_text()[-2000:]}")


def stop(routers: Sequence[RouterProcess]) -> None:
    """Ends all that still run."""
    for router in routers:
        router.kill()


def main() -> None:
    """Serves until it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = Orders(**json.load(sys.stdin))
    uvicorn.run(
        make_app(orders),
        port=orders.port,
        http=RouterProtocol,
        loop="uvloop",
        lifespan="on",
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
