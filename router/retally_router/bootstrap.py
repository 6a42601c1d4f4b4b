"""Puts a router together: the only place that knows its adapters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.recursion import bound_recursion
from retally.errors import BadRequest
from retally.protocol.eip712 import Address, Domain, SigningKey
from retally_router.accept_job import AcceptJob
from retally_router.allowance import Allowances
from retally_router.api import Lifespan, build_api, routes_of
from retally_router.chain_exchange import PooledExchange
from retally_router.chain_view import OnChainView, Standings
from retally_router.channels import Channels
from retally_router.checked_settings import CheckedSettings
from retally_router.credit import Credit
from retally_router.directory import Directory
from retally_router.front import Front
from retally_router.hedge import HedgeBudget
from retally_router.hot_path import HotPath
from retally_router.idempotency import IdempotentAnswers
from retally_router.job_log import JobLog
from retally_router.job_metrics import JobMetrics
from retally_router.joined_redis import open_store
from retally_router.keys import Keys
from retally_router.lanes import Lanes, process_name
from retally_router.lease_keeper import LeaseKeeper
from retally_router.market_api import MarketApi
from retally_router.metrics import Metrics
from retally_router.node_api import HttpNodeApi
from retally_router.observed import Watch
from retally_router.other_paths import OtherPaths
from retally_router.payment_terms import PaymentTerms
from retally_router.placing import Assigner, Placer
from retally_router.ports import ChainView, Clock
from retally_router.quotes import Quotes
from retally_router.resume_job import ResumeJob
from retally_router.selection import Selection
from retally_router.serve_job import Means
from retally_router.settle_jobs import SettleJobs
from retally_router.tracing import Tracing, Untraced
from retally_router.vouchers import VoucherSender

DEVNET_CHAIN_ID = 31337
STORE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What a router stands on: chain, time, store and the way to its nodes."""

    chain: ChainView
    clock: Clock
    domain: Domain
    redis: Any
    nodes: HttpNodeApi
    key: SigningKey
    asset: Address | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """A router's parts that tests and operators look at."""

    app: Front
    directory: Directory
    channels: Channels
    sender: VoucherSender
    settle: SettleJobs
    watch: Watch
    allowances: Allowances


@dataclass(frozen=True, slots=True)
class _Parts:
    """What several use cases share."""

    standings: Standings
    metrics: Metrics
    log: JobLog
    keys: Keys
    quotes: Quotes
    watch: Watch
    directory: Directory
    selection: Selection
    lanes: Lanes
    allowances: Allowances
    credit: Credit
    sender: VoucherSender
    channels: Channels
    settle: SettleJobs
    boot: int


def build_router(settings: CheckedSettings, outside: Outside, owned: tuple[Any, ...] = ()) -> Router:
    """The whole router; `owned` is started and closed with it."""
    bound_recursion()
    parts = _parts(settings, outside)
    jobs = JobMetrics(parts.metrics.registry)
    jobs.watch(parts.channels.accounts)
    tracing = tracing_of(settings)
    hot = HotPath(
        _accept(settings, outside, parts),
        parts.metrics,
        jobs,
        tracing,
        max_body_bytes=settings.max_body_bytes,
        client_seconds=settings.client_seconds,
    )
    market = MarketApi(
        parts.keys,
        parts.quotes,
        parts.directory,
        parts.selection,
        outside.nodes,
        outside.clock,
        outside.domain,
        settings.default_max_tokens,
        settings.max_body_bytes,
    )
    first_lane = settings.replica % settings.lanes
    running = _lifespan(parts, outside, (tracing, *owned, LeaseKeeper(parts.credit)), first_lane)
    api = build_api(routes_of(parts.directory, parts.log, market, parts.metrics, outside.redis), running)
    rest = OtherPaths(
        hot,
        IdempotentAnswers(outside.redis),
        api,
        max_body=settings.max_body_bytes,
        seconds=settings.client_seconds,
    )
    return Router(
        Front(hot, rest), parts.directory, parts.channels, parts.sender, parts.settle, parts.watch, parts.allowances
    )


def tracing_of(settings: CheckedSettings) -> Tracing:
    """What tells requests to a collector, if there is one; raises BadRequest where its library is not installed."""
    if not settings.otlp_endpoint:
        return Untraced()
    try:
        from retally_router.otel import OtelTracing
    except ImportError as error:
        hint = "install the router with `retally[otel]`, or leave otlp_endpoint empty"
        raise BadRequest(f"OpenTelemetry is not installed: {error}", param="otlp_endpoint", hint=hint) from error
    return OtelTracing.over_http(settings.otlp_endpoint, settings.trace_share)


def _parts(settings: CheckedSettings, outside: Outside) -> _Parts:
    domain, clock, redis, api = outside.domain, outside.clock, outside.redis, outside.nodes
    boot = time.time_ns() // 1_000_000
    log, watch = JobLog(redis), Watch(settings.breaker_failures, settings.breaker_seconds)
    standings, sender = Standings(outside.chain, settings.standing_seconds, settings.chain_seconds), VoucherSender(api)
    lease = settings.lane_lease_seconds
    credit = Credit(redis, standings.standing, lease_jobs=settings.credit_lease_jobs)
    channels, directory = Channels(api, log, credit, domain), _directory(settings, outside, watch)
    lapsed, name = (credit.leases.retire_all, channels.lapse), process_name(boot)
    lanes = Lanes(redis, count=settings.lanes, holder=name, lease_seconds=lease, lapsed=lapsed, adopted=channels.lapse)
    settle = SettleJobs(
        api, log, channels, credit, sender, lanes, clock, domain, find=directory.find, recover_seconds=lease
    )
    return _Parts(
        standings=standings,
        metrics=Metrics(),
        log=log,
        keys=Keys(redis, domain),
        quotes=Quotes(outside.key),
        watch=watch,
        directory=directory,
        selection=Selection.of(settings, watch),
        lanes=lanes,
        allowances=Allowances(redis, holder=process_name(boot), lease_seconds=lease),
        credit=credit,
        sender=sender,
        channels=channels,
        settle=settle,
        boot=boot,
    )


def _accept(settings: CheckedSettings, outside: Outside, parts: _Parts) -> AcceptJob:
    return AcceptJob(
        parts.keys,
        parts.quotes,
        parts.directory,
        parts.selection,
        parts.credit,
        parts.standings.standing,
        outside.clock,
        outside.domain,
        _means(settings, outside, parts),
        settings.default_max_tokens,
        settings.request_lifetime_seconds,
        parts.allowances,
        PaymentTerms(outside.domain, outside.asset),
        ResumeJob(outside.nodes, outside.domain, parts.directory.find),
    )


def _means(settings: CheckedSettings, outside: Outside, parts: _Parts) -> Means:
    assigner = Assigner(outside.key, settings.replica, parts.boot, outside.domain)
    placer = Placer(
        outside.nodes,
        parts.channels,
        parts.lanes,
        parts.log,
        assigner,
        lost=parts.settle.later,
        first_seconds=settings.first_byte_seconds,
    )
    return Means(
        placer,
        parts.channels,
        parts.credit,
        parts.directory,
        parts.watch,
        parts.sender,
        parts.settle,
        parts.log,
        parts.metrics,
        settings.max_attempts,
        settings.max_continuations,
        settings.first_byte_seconds,
        HedgeBudget(settings.hedge_share),
    )


def _lifespan(parts: _Parts, outside: Outside, owned: tuple[Any, ...], first_lane: int) -> Lifespan:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        for part in (*owned, outside.nodes):
            await part.start()
        await parts.lanes.start(first_lane)
        await parts.directory.start()
        await parts.allowances.start()
        try:
            yield
        finally:
            await parts.directory.close()
            await parts.sender.close()
            await parts.settle.close()
            await parts.allowances.close()
            await parts.lanes.close()
            for part in (outside.nodes, *reversed(owned)):
                await part.close()

    return running


def build_app(settings: CheckedSettings) -> Front:
    """The router over a real chain, a real Redis and real nodes."""
    deployment = Deployment.load(settings.deployment)
    chain = Chain(settings.rpc_url, deployment, PooledExchange(settings.rpc_url))
    redis = open_store(settings.redis_url, STORE_SECONDS)
    nodes = HttpNodeApi(
        connect_seconds=settings.connect_seconds,
        first_byte_seconds=settings.first_byte_seconds,
        idle_seconds=settings.idle_seconds,
    )
    key = SigningKey.from_hex(settings.key)
    asset = deployment.address("Asset")
    outside = Outside(OnChainView(chain), chain.clock, deployment.domain, redis, nodes, key, asset)
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


def _directory(settings: CheckedSettings, outside: Outside, watch: Watch) -> Directory:
    return Directory(
        outside.chain,
        outside.nodes,
        outside.clock,
        outside.domain,
        poll_seconds=settings.poll_seconds,
        stale_seconds=max(settings.node_stale_seconds, 3 * settings.poll_seconds),
        audited_owners=settings.audited_owners,
        require_calibration=settings.require_calibration,
        watch=watch,
    )
