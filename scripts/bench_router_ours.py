"""retally's router for scripts/bench_router: the real one, over a table instead of a chain.

Usage: bench_router_ours.py PORT REDIS_URL SERVER NODE_URL…   (SERVER: asgi or native)
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench_router_market import DOMAIN, FixedChain, FixedClock
from retally.protocol.eip712 import SigningKey
from retally_router import bootstrap
from retally_router.checked_settings import CheckedSettings
from retally_router.joined_redis import open_store
from retally_router.logs import configure_logs
from retally_router.node_api import HttpNodeApi
from retally_router.serve import serve
from retally_router.worker import become_worker, taken_settings

WORKER = "worker"


def start(port: str, redis_url: str, server: str, endpoints: list[str]) -> None:
    """Checks the settings and goes on as the worker, as a router does."""
    from retally_router.settings import RouterSettings
    from retally_router.start import checked

    settings = RouterSettings.model_validate(
        {
            "rpc_url": "http://127.0.0.1:1",
            "deployment": Path("unused.json"),
            "key": "0x" + "11" * 32,
            "redis_url": redis_url,
            "port": int(port),
            "audited_owners": 1,
            "log_level": "WARNING",
            "server": server,
        }
    )
    become_worker(checked(settings, SigningKey.from_hex("11" * 32)), "bench_router_ours", WORKER, *endpoints)


def work(settings: CheckedSettings, endpoints: list[str]) -> None:
    """Serve until killed."""
    configure_logs(settings.log_level)
    redis = open_store(settings.redis_url, bootstrap.STORE_SECONDS)
    nodes = HttpNodeApi(
        connect_seconds=settings.connect_seconds,
        first_byte_seconds=settings.first_byte_seconds,
        idle_seconds=settings.idle_seconds,
    )
    outside = bootstrap.Outside(
        FixedChain(endpoints), FixedClock(), DOMAIN, redis, nodes, SigningKey.from_hex(settings.key)
    )
    serve(bootstrap.build_router(settings, outside, (bootstrap.RedisConnection(redis),)).app, settings)


def main() -> None:
    """The start by its arguments, the worker by what the start handed over."""
    first, second, *rest = sys.argv[1:]
    if second == WORKER:
        work(taken_settings(first), rest)
    else:
        start(first, second, rest[0], rest[1:])


if __name__ == "__main__":
    main()
