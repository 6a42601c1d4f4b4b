"""What the processes of one verifier need of Redis: one leads, each has a lane of its own, all judge."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address
from retally_verifier.judge_point import PointJudge
from retally_verifier.lease import Lease
from retally_verifier.point_stream import PointStream
from retally_verifier.point_work import LocalWork, PointWork
from retally_verifier.settings import VerifierSettings
from retally_verifier.shared_work import SharedWork, Worker


@asynccontextmanager
async def open_redis(settings: VerifierSettings) -> AsyncIterator[Redis]:
    """The Redis of the settings."""
    # Reads block for half a second at most; a server that is silent for longer than a lease is gone.
    redis: Redis = Redis.from_url(settings.redis_url or "", socket_timeout=settings.lease_seconds)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def leases(
    settings: VerifierSettings, verifier: Address, *, leads: bool
) -> AsyncIterator[tuple[asyncio.Event, ...]]:
    """Leadership, if it is asked for, and the lane; yields what tells that one of them is lost."""
    if settings.redis_url is None:
        yield ()
        return
    base = f"retally:verifier:{verifier.lower()}"
    names = [f"{base}:leader"] if leads else []
    async with open_redis(settings) as redis:
        held = [Lease(redis, name, settings.lease_seconds) for name in (*names, f"{base}:lane:{settings.lane}")]
        taken: list[Lease] = []
        try:
            for each in held:
                await each.acquire()
                taken.append(each)
            yield tuple(each.lost for each in held)
        finally:
            for each in taken:
                await each.release()


@asynccontextmanager
async def open_work(
    settings: VerifierSettings, judge: PointJudge, domain: Domain, verifier: Address
) -> AsyncIterator[PointWork]:
    """Judges here, or here and in all workers."""
    if settings.redis_url is None:
        yield LocalWork(judge, settings.at_once)
        return
    async with open_redis(settings) as redis:
        stream = PointStream(redis, verifier)
        working = asyncio.create_task(worker(settings, stream, judge, domain).run(), name="verifier-worker")
        try:
            yield SharedWork(stream, settings.poll_seconds)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def worker(settings: VerifierSettings, stream: PointStream, judge: PointJudge, domain: Domain) -> Worker:
    """A worker with a name that no other process has."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return Worker(stream, judge, domain, name, at_once=settings.at_once, idle_seconds=settings.lease_seconds)


async def first_of(lost: tuple[asyncio.Event, ...]) -> None:
    """Returns when one of them is set; never, if there are none."""
    waiting = [asyncio.create_task(each.wait()) for each in lost]
    try:
        if waiting:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.Event().wait()
    finally:
        for each in waiting:
            each.cancel()
