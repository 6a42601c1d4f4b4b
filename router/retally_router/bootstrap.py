"""Puts a router together: the only place that knows its adapters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

import uvicorn
from redis.asyncio import Redis

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.errors import BadRequest
from retally.keystore import unlock_file
from retally.protocol.eip712 import Domain, SigningKey
from retally_router.accept_job import AcceptJob
from retally_router.api import build_api
from retally_router.chain_view import OnChainView, Standings
from retally_router.channels import Channels
from retally_router.credit import Credit
from retally_router.directory import Directory
from retally_router.front import Front
from retally_router.hot_path import HotPath
from retally_router.job_log import JobLog
from retally_router.keys import Keys
from retally_router.lanes import Lanes, process_name
from retally_router.logs import configure_logs
from retally_router.market_api import MarketApi
from retally_router.metrics import Metrics
from retally_router.node_api import AiohttpNodeApi
from retally_router.observed import Watch
from retally_router.placing import Assigner, Placer
from retally_router.ports import ChainView, Clock
from retally_router.quotes import Quotes
from retally_router.selection import Selection
from retally_router.serve_job import Means
from retally_router.settings import RouterSettings
from retally_router.settle_jobs import SettleJobs
from retally_router.vouchers import VoucherSender

DEVNET_CHAIN_ID = 31337


@dataclass(frozen=True, slots=True)
class Outside:
    """What a router stands on: chain, time, store and the way to its nodes."""

    chain: ChainView
    clock: Clock
    domain: Domain
    redis: Any
    nodes: AiohttpNodeApi
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Router:
    """A router's parts that tests and operators look at."""

    app: Front
    directory: Directory
    channels: Channels
    sender: VoucherSender
    settle: SettleJobs
    watch: Watch


def build_router(settings: RouterSettings, outside: Outside, owned: tuple[Any, ...] = ()) -> Router:
    """The whole router; `owned` is started and closed with it."""
    domain, clock, redis, api = outside.domain, outside.clock, outside.redis, outside.nodes
    boot = time.time_ns() // 1_000_000
    standings = Standings(outside.chain, settings.standing_seconds)
    metrics, log, keys, quotes = Metrics(), JobLog(redis), Keys(redis, domain), Quotes(redis)
    watch = Watch(settings.breaker_failures, settings.breaker_seconds)
    directory = _directory(settings, outside)
    lanes = Lanes(redis, count=settings.lanes, holder=process_name(boot), lease_seconds=settings.lane_lease_seconds)
    credit, sender = Credit(redis, standings.standing), VoucherSender(api)
    channels = Channels(api, log, credit, domain)
    settle = SettleJobs(api, log, channels, sender, lanes, clock, domain)
    assigner = Assigner(outside.key, settings.replica, boot, domain)
    placer = Placer(api, channels, lanes, log, assigner, lost=settle.later, first_seconds=settings.first_byte_seconds)
    selection = Selection(watch, value_of_second=settings.value_of_second, random=SystemRandom())
    means = Means(
        placer,
        channels,
        credit,
        directory,
        watch,
        sender,
        settle,
        log,
        metrics,
        settings.max_attempts,
        settings.max_continuations,
    )
    accept = AcceptJob(
        keys,
        quotes,
        directory,
        selection,
        credit,
        standings.standing,
        clock,
        domain,
        means,
        settings.default_max_tokens,
        settings.request_lifetime_seconds,
    )
    market = MarketApi(
        keys,
        quotes,
        directory,
        selection,
        api,
        clock,
        domain,
        settings.default_max_tokens,
        settings.max_body_bytes,
    )

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        for part in (*owned, api):
            await part.start()
        await lanes.start(settings.replica % settings.lanes)
        await directory.start()
        try:
            yield
        finally:
            await directory.close()
            await sender.close()
            await settle.close()
            await lanes.close()
            for part in (api, *reversed(owned)):
                await part.close()

    rest = build_api(directory, log, market, metrics, redis, running)
    app = Front(HotPath(accept, metrics, max_body_bytes=settings.max_body_bytes), rest)
    return Router(app, directory, channels, sender, settle, watch)


def build_app(settings: RouterSettings) -> Front:
    """The router over a real chain, a real Redis and real nodes."""
    deployment = Deployment.load(settings.deployment)
    chain = Chain(settings.rpc_url, deployment)
    redis = Redis.from_url(settings.redis_url)
    nodes = AiohttpNodeApi(
        connect_seconds=settings.connect_seconds,
        first_byte_seconds=settings.first_byte_seconds,
        idle_seconds=settings.idle_seconds,
    )
    key = signing_key(settings, deployment.chain_id)
    outside = Outside(OnChainView(chain), chain.clock, deployment.domain, redis, nodes, key)
    return build_router(settings, outside, (RedisConnection(redis), chain)).app


class RedisConnection:
    """Starts and closes the store's connection with the router."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def start(self) -> None:
        """Fails early when the store does not answer."""
        await self._redis.ping()

    async def close(self) -> None:
        """Closes the connection."""
        await self._redis.aclose()


def signing_key(settings: RouterSettings, chain_id: int) -> SigningKey:
    """The key that signs assignments."""
    if settings.key is not None:
        if chain_id != DEVNET_CHAIN_ID:
            raise BadRequest(
                "a raw key is for chain 31337 only", param="key", hint="use key_file and key_password_file"
            )
        return SigningKey.from_hex(settings.key.get_secret_value())
    if settings.key_file is None or settings.key_password_file is None:
        raise BadRequest("key_file and key_password_file are needed", param="key_file")
    return unlock_file(settings.key_file, settings.key_password_file.read_text().strip())


def run(settings: RouterSettings) -> None:
    """Serves until a signal comes."""
    configure_logs(settings.log_level)
    uvicorn.run(
        build_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def _directory(settings: RouterSettings, outside: Outside) -> Directory:
    return Directory(
        outside.chain,
        outside.nodes,
        outside.clock,
        outside.domain,
        poll_seconds=settings.poll_seconds,
        stale_seconds=max(settings.node_stale_seconds, 3 * settings.poll_seconds),
        audited_owners=settings.audited_owners,
        require_calibration=settings.require_calibration,
    )
