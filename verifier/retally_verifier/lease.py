"""A lease in Redis: one process at a time leads a verifier, one at a time uses a lane."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from retally.errors import Conflict, Unavailable
from retally_verifier.stopping import is_told_to_stop

log = logging.getLogger(__name__)

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """Held while it is renewed; whoever loses it must stop, since another may have it."""

    def __init__(self, redis: Redis, name: str, seconds: float) -> None:
        self._redis: Any = redis
        self._name = name
        self._seconds = seconds
        self._token = secrets.token_hex(16)
        self._task: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()

    async def acquire(self) -> None:
        """Takes it, after at most the life of one that a dead process left; raises Conflict where it is held."""
        deadline = time.monotonic() + 1.5 * self._seconds
        while not await self._take():
            if time.monotonic() > deadline:
                hint = "end the other process, or start this one as a worker: retally verifier work --lane N"
                raise Conflict(f"{self._name} is held by another process", code="lease_held", hint=hint)
            await asyncio.sleep(self._seconds / 10)
        self._task = asyncio.create_task(self._keep(), name=f"lease {self._name}")

    async def release(self) -> None:
        """Gives it back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._redis.eval(_RELEASE, 1, self._name, self._token)
        except RedisError as error:
            log.warning("lease %s runs out by itself: %s", self._name, error)

    async def _take(self) -> bool:
        try:
            return bool(await self._redis.set(self._name, self._token, nx=True, px=self._milliseconds))
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis does not answer: {error}", hint="check redis_url; is the server up?") from error

    @property
    def _milliseconds(self) -> int:
        return round(self._seconds * 1000)

    async def _keep(self) -> None:
        """Renews it thrice in its life; unsure whether it still holds, it counts as lost before it may have run out."""
        held_until = time.monotonic() + self._seconds
        while not is_told_to_stop():
            await asyncio.sleep(self._seconds / 3)
            asked = time.monotonic()
            try:
                renewed = await asyncio.wait_for(
                    self._redis.eval(_RENEW, 1, self._name, self._token, self._milliseconds), self._seconds / 3
                )
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("lease %s can't be renewed: %s", self._name, error)
                if time.monotonic() + self._seconds / 3 < held_until:
                    continue
                renewed = 0
            if not renewed:
                log.error("lease %s is lost", self._name)
                self.lost.set()
                return
            held_until = asked + self._seconds
