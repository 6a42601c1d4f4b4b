"""What tests of leased credit stand on: a chain, a clock, and a store that processes share and that may break."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import credit_key, leases_key
from retally_router.earmark_scripts import PROMISE
from retally_router.earmarks import Ask
from retally_router.leases import IDLE_SECONDS
from retally_router.ports import Standing
from retally_router.store_errors import StoreUnreachable
from tests.fakes_world import NOW

#: Each job for itself, and in blocks of eight.
LEASES = pytest.mark.parametrize("lease_jobs", [0, 8])
PAYER, SIGNER, NODE = (SigningKey(keccak(name)).address for name in (b"payer", b"session", b"node"))


SALES = itertools.count()


@dataclass
class LeaseWorld:
    """A chain, a clock and the store that processes share."""

    redis: Redis
    balance: int = 10_000
    cap: int = 10**9
    now: float = 1000.0

    async def standing(self, payer: Address, signer: Address, fresh: bool) -> Standing:
        return Standing(self.balance, 0, self.cap, NOW * 2)

    def process(self, lease_jobs: int = 8, store: Any = None) -> Credit:
        redis = self.redis if store is None else store
        return Credit(redis, self.standing, lambda: self.now, lease_jobs=lease_jobs, ticks=self.ticks)

    def ticks(self) -> float:
        return self.now

    async def held(self) -> int:
        return int(await self.redis.hget(credit_key(PAYER), "held") or 0)

    async def open_leases(self) -> list[str]:
        return [str(name, "ascii") for name in await self.redis.hkeys(leases_key(PAYER)) if isinstance(name, bytes)]

    async def scripts(self) -> int:
        return int((await self.redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)) + int(
            (await self.redis.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)
        )


class Breaking:
    """A store that is gone for scripts when told so, or before it answers them, or before it hears them."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.is_gone = self.is_late = self.is_deaf = False
        self._unheard: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, *args: Any) -> Any:
        if self.is_gone:
            raise StoreUnreachable("gone")
        if self.is_deaf:
            self._unheard.append(args)
            raise StoreUnreachable("gone before it heard")
        found = await self._redis.eval(*args)
        await self.gate.wait()
        if self.is_late:
            raise StoreUnreachable("gone before it answered")
        return found

    async def hear(self) -> None:
        """What was on its way to it."""
        unheard, self._unheard = self._unheard, []
        for args in unheard:
            await self._redis.eval(*args)


class Slow:
    """A store that is a long way off."""

    def __init__(self, redis: Any, seconds: float) -> None:
        self._redis, self._seconds = redis, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, *args: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return await self._redis.eval(*args)


async def hold(credit: Credit, job: str, amount: int = 10, *, payer: Address = PAYER, signer: Address = SIGNER) -> None:
    await credit.hold(payer, signer, job, amount)


async def leave(credit: Credit, store: Breaking, job: str) -> None:
    """A client that leaves while the store has not answered yet."""
    store.gate.clear()
    leaving = asyncio.create_task(hold(credit, job))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    store.gate.set()
    await asyncio.sleep(0.05)


class Counting:
    """A store that says how many scripts were asked of it at once."""

    def __init__(self, redis: Any) -> None:
        self._redis, self._running = redis, 0
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, *args: Any) -> Any:
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await self._redis.eval(*args)
        finally:
            self._running -= 1


class InOrder:
    """A store over one connection: what is asked is answered in order."""

    def __init__(self, redis: Any) -> None:
        self._redis, self._lock = redis, asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, *args: Any) -> Any:
        async with self._lock:
            return await self._redis.eval(*args)


class Overtaken:
    """A store with two connections, of which the one with the first promise is slow."""

    def __init__(self, redis: Any) -> None:
        self._redis, self._promises = redis, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, *args: Any) -> Any:
        if script is PROMISE:
            self._promises += 1
            await asyncio.sleep(0.05 if self._promises == 1 else 0)
        return await self._redis.eval(script, *args)


def line(number: int) -> ChannelId:
    """One of its channels."""
    return ChannelId(PAYER, SIGNER, NODE, number)


async def promise(credit: Credit, channel: ChannelId, jobs: Mapping[str, int], *, known: int = 0) -> int:
    """So much of the channel's total is for each of these jobs, all in all, and so much was; answers that total."""
    asks = [Ask(f"{job}:{channel.lane}", job, most, is_own=True, known=known) for job, most in jobs.items()]
    return (await credit.promise(channel, asks)).total


async def lose(world: LeaseWorld, payer: Address = PAYER) -> None:
    """The store comes back without what it was told last."""
    await world.redis.delete(credit_key(payer), leases_key(payer))


async def promised(world: LeaseWorld) -> int:
    """What the payer has promised, all in all."""
    return int(await world.redis.hget(credit_key(PAYER), f"promised:{SIGNER}") or 0)


async def sell(world: LeaseWorld, amount: int) -> None:
    """Another process promises so much."""
    other, name = world.process(0), f"other{next(SALES)}"
    await hold(other, name, amount)
    await promise(other, line(9), {name: amount})
    await other.release(PAYER, name)


async def free(world: LeaseWorld) -> int:
    """What nobody holds and nothing promised, by one look."""
    found = await world.redis.hgetall(credit_key(PAYER))
    sums = [int(value) for name, value in found.items() if name == b"held" or name.startswith(b"promised:")]
    return world.balance - sum(sums)


async def buy(world: LeaseWorld, *, but: int = 0) -> None:
    """Somebody else buys all that is free, but for so much."""
    amount = await free(world) - but
    if amount > 0:
        await sell(world, amount)


async def open_later(store: Breaking) -> None:
    """The answers that were kept back come."""
    await asyncio.sleep(0.05)
    store.gate.set()


class Stopping:
    """A store that keeps back the next hold until it is let go."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.is_closed = False
        self.is_there, self.gate = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, *args: Any) -> Any:
        if self.is_closed and "local balance, used, cap" in script:
            self.is_closed = False
            self.is_there.set()
            await self.gate.wait()
        return await self._redis.eval(script, *args)


async def tidied(world: LeaseWorld, *processes: Credit) -> int:
    """What is held once nobody uses a lease."""
    for _ in range(3):
        world.now += IDLE_SECONDS + 0.1
        for each in processes:
            await each.tidy()
    return await world.held()
