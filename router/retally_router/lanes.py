"""Lanes: each running router writes to lanes of its own, leased from Redis, so that totals never interleave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from retally.crash_points import crash_point
from retally.errors import Unavailable
from retally_router.end_tasks import end_tasks
from retally_router.fair_timeout import FairTimeout
from retally_router.store_errors import StoreError

# A lease is renewed under the number that was last heard to be ours, so that a taking whose answer was lost is no
# renewal. It is taken, under another number, when free, when ours by an earlier number, or when its owner is gone.
_TAKE = """
local held, ours = redis.call('GET', KEYS[1]), ARGV[2] .. ':'
if held == ours .. ARGV[3] then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  return 2
end
if held and string.sub(held, 1, #ours) ~= ours and held ~= ARGV[5] then return 0 end
redis.call('SET', KEYS[1], ours .. ARGV[4], 'PX', ARGV[1])
return 1
"""
# Ours without a gap, in which another could have had it.
_KEPT = 2
_DROP = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then return redis.call('DEL', KEYS[1]) end
return 0
"""

RENEW_SECONDS = 2.0
PAUSE_SECONDS = 0.1


def process_name(boot: int) -> str:
    """What a lease says about its holder."""
    return f"{socket.gethostname()}:{os.getpid()}:{boot}"


def is_gone(holder: str) -> bool:
    """Whether the holder was a process of this host that no longer runs."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Lanes:
    """The lanes that this process may write to."""

    def __init__(
        self,
        redis: Any,
        *,
        count: int,
        holder: str,
        lease_seconds: float,
        lapsed: Sequence[Callable[[], None]] = (),
        adopted: Callable[[int], None] | None = None,
    ) -> None:
        self._redis = redis
        #: Told when a lane may have been another's in the meantime, before anything new runs.
        self._lapsed = lapsed
        #: The same, for a lane that was adopted.
        self._tell_adopted = adopted
        self._count = count
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._own: int | None = None
        #: By lane: under which number it is ours, as far as was heard.
        self._heard: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._adopted: set[int] = set()
        self._good_until = 0.0
        self._asked_for, self._renewed = asyncio.Event(), asyncio.Event()
        self._renewer: asyncio.Task[None] | None = None

    @property
    def current(self) -> int:
        """The lane for new jobs; refuses when the lease could not be renewed in time."""
        if self._own is None or asyncio.get_running_loop().time() > self._good_until:
            raise Unavailable("this router holds no lane", hint="is Redis reachable? retry in a few seconds")
        return self._own

    async def held(self) -> int:
        """As `current`, but a lease that ran out, say while this router was busy, is renewed first if that is quick."""
        if self._own is None or asyncio.get_running_loop().time() > self._good_until:
            self._renewed.clear()
            self._asked_for.set()
            with contextlib.suppress(TimeoutError):
                async with FairTimeout(RENEW_SECONDS):
                    await self._renewed.wait()
        return self.current

    async def start(self, first: int) -> None:
        """Leases the first free lane, starting from the preferred one, and keeps it."""
        self._own = await self._lease_any(first)
        self._renewer = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Gives all lanes back."""
        if self._renewer is not None:
            await end_tasks([self._renewer])
        with contextlib.suppress(StoreError):
            for lane in {self._own, *self._adopted} - {None}:
                await self._redis.eval(_DROP, 1, _key(lane), self._holder)
        self._own = None

    async def adopt(self, lane: int) -> bool:
        """Leases a lane that an earlier process left work on; false while another process holds it."""
        if lane == self._own or lane in self._adopted:
            return True
        taken = await self._take(lane)
        if taken and taken != _KEPT and self._tell_adopted is not None:
            self._tell_adopted(lane)
        if taken:
            self._adopted.add(lane)
        return bool(taken)

    async def _take(self, lane: int) -> int:
        held = await self._redis.get(_key(lane))
        gone = held.decode() if held is not None and is_gone(held.decode()) else ""
        number = next(self._numbers)
        args = int(self._lease_seconds * 1000), self._holder, self._heard.get(lane, 0), number, gone
        crash_point("before:lane")
        taken = int(await self._redis.eval(_TAKE, 1, _key(lane), *args))
        crash_point("after:lane")
        if taken != _KEPT:
            self._heard[lane] = number
        return taken

    async def _lease_any(self, first: int) -> int:
        loop = asyncio.get_running_loop()
        for step in range(self._count):
            lane = (first + step) % self._count
            asked = loop.time()
            if await self._take(lane):
                self._good_until = asked + self._lease_seconds
                return lane
        raise Unavailable(f"all {self._count} lanes are leased", hint="raise `lanes` in the router's settings")

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease_seconds / 4):
                    await self._asked_for.wait()
            self._asked_for.clear()
            try:
                await self._renew_once()
            except (StoreError, Unavailable):
                # Whoever waits would ask again at once.
                await asyncio.sleep(PAUSE_SECONDS)

    async def _renew_once(self) -> None:
        asked = asyncio.get_running_loop().time()
        taken = 0 if self._own is None else await self._take(self._own)
        if taken != _KEPT:
            self._forget()
        if taken:
            self._good_until = asked + self._lease_seconds
        else:
            # Somebody else writes there now: move on to a lane of our own.
            self._own = await self._lease_any(0)
        self._renewed.set()
        for lane in list(self._adopted):
            taken = await self._take(lane)
            if taken != _KEPT:
                self._forget()
            if not taken:
                self._adopted.discard(lane)

    def _forget(self) -> None:
        for forget in self._lapsed:
            forget()


def _key(lane: int | None) -> str:
    return f"retally:lane:{lane}"
