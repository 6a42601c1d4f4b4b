"""What an API key may still ask for, leased from Redis in blocks: most requests need no round trip for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from retally.errors import RetallyError
from retally.protocol.key_limits import LARGEST, KeyLimits
from retally_router.allowance_script import LEASE
from retally_router.end_tasks import end_tasks
from retally_router.limit_errors import limit_error, rate_headers
from retally_router.store_errors import StoreError

DAY_SECONDS = 86_400
# Leased at once at most, in requests like the one that asks: what a crash can cost a key's limit.
MOST_REQUESTS = {"rpm": 1000, "tpm": 1000, "day": 16, "total": 16}
_SECONDS = {"rpm": 60, "tpm": 60, "day": DAY_SECONDS, "total": 0}


@dataclass(slots=True)
class Counter:
    """One kind of limit of one key, as this router counts it between two round trips."""

    kind: str
    limit: int
    window: int = 0
    window_ends: float = 0.0
    free: int = 0
    reserved: int = 0
    used: int = 0
    elsewhere: int = 0
    known: bool = False

    def has(self, need: int, now: float) -> bool:
        """Whether the lease covers it."""
        return self.free >= need and (now < self.window_ends or _SECONDS[self.kind] == 0)

    @property
    def remaining(self) -> int:
        """What is left of the limit, by the last look at Redis."""
        return self.elsewhere + self.free


@dataclass(slots=True)
class Allowance:
    """All limits of one key."""

    key_id: str
    counters: dict[str, Counter]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    good_until: float = 0.0
    asked_at: float = 0.0

    def has(self, needs: dict[str, int], now: float) -> bool:
        """Whether this router may grant it without asking."""
        return now < self.good_until and all(item.has(needs[kind], now) for kind, item in self.counters.items())


@dataclass(slots=True)
class Held:
    """What one job set aside; settled once with what it came to."""

    allowance: Allowance | None = None
    tokens: int = 0
    amount: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def settle(self, tokens: int, amount: int) -> None:
        """Counts what the job used, gives the rest back."""
        allowance, self.allowance = self.allowance, None
        if allowance is None:
            return
        for kind, held, used in (
            ("tpm", self.tokens, tokens),
            ("day", self.amount, amount),
            ("total", self.amount, amount),
        ):
            counter = allowance.counters.get(kind)
            if counter is not None:
                counter.reserved -= held
                counter.used += used
                counter.free += max(0, held - used)


NOTHING = Held()


class Allowances:
    """The allowances of all keys that ask here."""

    def __init__(
        self, redis: Any, *, holder: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._known: dict[str, Allowance] = {}
        self._renewer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to renew and to give back."""
        self._renewer = asyncio.create_task(self._keep_renewing())

    async def close(self) -> None:
        """Gives everything back."""
        if self._renewer is not None:
            await end_tasks([self._renewer])
        for allowance in self._known.values():
            with contextlib.suppress(StoreError):
                await self._sync(allowance, keep=False)

    async def hold(self, key_id: str, limits: KeyLimits, *, tokens: int, amount: int) -> Held:
        """Sets a job's most aside; raises with the limit that it meets."""
        if limits.is_empty:
            return Held()
        allowance = self._known.get(key_id)
        if allowance is None:
            allowance = self._known[key_id] = Allowance(key_id, counters_of(limits))
        needs = {"rpm": 1, "tpm": tokens, "day": amount, "total": amount}
        allowance.asked_at = self._clock()
        if not allowance.has(needs, allowance.asked_at):
            async with allowance.lock:
                # Whoever held the lock may have fetched enough for us too.
                if not allowance.has(needs, self._clock()):
                    await self._sync(allowance, needs)
                self._take(allowance, needs)
        else:
            self._take(allowance, needs)
        return Held(allowance, tokens, amount, tuple(rate_headers(allowance.counters.values(), self._clock())))

    def _take(self, allowance: Allowance, needs: dict[str, int]) -> None:
        for kind, counter in allowance.counters.items():
            counter.free -= needs[kind]
            if kind == "rpm":
                counter.used += 1
            else:
                counter.reserved += needs[kind]

    async def _sync(self, allowance: Allowance, asked_for: dict[str, int] | None = None, *, keep: bool = False) -> None:
        """Asks for what a request needs; or renews, keeping what is free; or gives that back."""
        counters, needs = list(allowance.counters.values()), asked_for or dict.fromkeys(allowance.counters, 0)
        args: list[Any] = [self._holder, int(self._lease_seconds * 1000), int(asked_for is not None)]
        sent = []
        for counter in counters:
            kept = counter.free if keep and counter.has(0, self._clock()) else 0
            sent.append((counter.used, kept))
            need = needs[counter.kind]
            most = min(LARGEST, need * MOST_REQUESTS[counter.kind])
            numbers = (counter.used, counter.window, counter.reserved, need, most, kept)
            args += [counter.kind, _SECONDS[counter.kind], counter.limit, *numbers]
            # Until the answer is here nobody may take from what is being given back.
            counter.free, counter.used = 0, 0
        asked = self._clock()
        try:
            found = await self._redis.eval(LEASE, 1, place_of(allowance.key_id), *args)
        except BaseException:
            # Kept is what Redis has on record either way, whether it heard us or not.
            for counter, (used, kept) in zip(counters, sent, strict=True):
                counter.used += used
                counter.free += kept
            raise
        allowance.good_until = asked + self._lease_seconds
        error = self._note(counters, needs, found, asked)
        if error is not None:
            raise error

    def _note(
        self, counters: list[Counter], needs: dict[str, int], found: list[list[bytes]], asked: float
    ) -> RetallyError | None:
        refused = None
        for counter, row in zip(counters, found, strict=True):
            ok, free, elsewhere, window, left, wait = (int(part) for part in row)
            counter.free += free
            counter.elsewhere, counter.window, counter.known = elsewhere, window, True
            counter.window_ends = asked + left / 1000
            if not ok and refused is None:
                refused = limit_error(counter, needs[counter.kind], wait / 1000)
        if refused is not None:
            refused.headers = {
                **refused.headers,
                **{name.decode(): value.decode() for name, value in rate_headers(counters, asked)},
            }
        return refused

    async def renew(self) -> None:
        """Renews the leases of keys in use, gives those of idle ones back."""
        for key_id, allowance in list(self._known.items()):
            asked_at = allowance.asked_at
            idle = self._clock() - asked_at > self._lease_seconds / 2
            async with allowance.lock:
                await self._sync(allowance, keep=not idle)
                # Who came in the meantime waits for the lock and will use it.
                is_wanted = allowance.asked_at != asked_at or any(
                    item.reserved or item.used for item in allowance.counters.values()
                )
                if idle and not is_wanted:
                    self._known.pop(key_id, None)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 4)
            with contextlib.suppress(StoreError):
                await self.renew()


def counters_of(limits: KeyLimits) -> dict[str, Counter]:
    """A counter for each limit that there is."""
    found = {
        "rpm": limits.requests_per_minute,
        "tpm": limits.tokens_per_minute,
        "day": limits.spend_per_day,
        "total": limits.spend_total,
    }
    return {kind: Counter(kind, limit) for kind, limit in found.items() if limit is not None}


def place_of(key_id: str) -> str:
    """Where a key's use is counted."""
    return f"retally:{{key-{key_id}}}:use"
