"""What a payer may still promise here: outstanding promises and holds against what the chain has for it.

All of a payer's numbers lie under one hash tag `{payer}`, so that one Lua script sees them at once, on a cluster too.
Lua counts in doubles: amounts stay below 2^53, and what the chain reports beyond that is cut to it.

While much is left, a process leases credit in blocks and its jobs take from that without a round trip (`leases.py`);
near the end each job asks for itself, so that the last unit is sold and a refusal is true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from retally.crash_points import crash_point
from retally.errors import CapExceeded, InsufficientFunds, SignerExpired
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit_answer import HELD, Answer, covered_by
from retally_router.credit_scripts import HOLD, PROMISE, RELEASE, SHRINK, USED, WANTED_SECONDS
from retally_router.leases import IDLE_SECONDS, MOST_AGE_SECONDS, PLAIN_SECONDS, Lease, Leases
from retally_router.ports import Standing
from retally_router.store_errors import StoreError

LARGEST = 2**53 - 1
HOLD_SECONDS = 3600
#: A refusal waits for two seconds until others gave back what is free of their leases, and asks so often meanwhile.
AGAIN_SECONDS, AGAIN_TRIES = 0.1, 20
KEPT_IN_VAIN = 10_000
NO_JOBS: Mapping[str, int] = MappingProxyType({})


def credit_key(payer: Address) -> str:
    """Where a payer's promises and holds are counted."""
    return f"retally:{{{payer}}}:credit"


def leases_key(payer: Address) -> str:
    """Which leases of a payer may have something free, and since when more is wanted."""
    return f"retally:{{{payer}}}:leases"


def channel_key_of(channel: ChannelId) -> str:
    """Where a channel's totals are kept."""
    return f"retally:{{{channel.payer}}}:channel:{channel.signer}:{channel.node}:{channel.lane}"


class Credit:
    """Holds an amount for each job in flight, counts promises, refuses what the chain does not cover."""

    def __init__(
        self,
        redis: Any,
        standing: Callable[[Address, Address, bool], Awaitable[Standing]],
        clock: Callable[[], float] = time.time,
        *,
        lease_jobs: int = 0,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._standing = standing
        self._clock = clock
        self._lease_jobs = lease_jobs
        self._ticks = ticks
        self._in_vain: set[tuple[str, str]] = set()
        self._orphans: list[tuple[Address, str]] = []
        #: What this process leased.
        self.leases = Leases()

    async def hold(self, payer: Address, signer: Address, job: str, amount: int, *, lane: int = 0) -> None:
        """Sets the job's largest fee aside; raises with what is missing. The lane names the process that holds."""
        answer = await self._ask(payer, signer, job, amount, lane)
        if not answer.is_held:
            # Collections of the payer's other signers may only look outstanding: read the chain again, once.
            await self._refresh(payer)
            answer = await self._try(payer, signer, job, amount, lane, fresh=True)
        if answer.leases:
            answer = await self._when_given_back(answer, payer, signer, job, amount, lane)
        if answer.reason == "cap":
            raise CapExceeded(amount, answer.left)
        if answer.reason == "funds":
            raise InsufficientFunds(amount, answer.left)

    async def release(self, payer: Address, job: str) -> None:
        """Ends the hold of a job or of a lease; what was promised for it stays counted."""
        lease = self.leases.release(job)
        if lease is None:
            crash_point("before:release")
            await self._redis.eval(RELEASE, 2, credit_key(payer), leases_key(payer), job)
            crash_point("after:release")
        elif lease.back:
            await self._give_back(lease)

    async def holds(self, payer: Address, signer: Address) -> list[tuple[str, int]]:
        """The signer's jobs and leases that hold something, each with the lane of the process that holds it."""
        found = []
        for field, value in (await self._redis.hgetall(credit_key(payer))).items():
            kind, _, job = field.decode().partition(":")
            if kind == "hold":
                _, holder, _, lane = value.decode().split("|")
                found += [(job, int(lane))] if holder == signer else []
        return found

    async def promise(self, channel: ChannelId, cumulative: int, jobs: Mapping[str, int] = NO_JOBS) -> int:
        """Records the highest total promised on a channel, and for which jobs; answers the highest so far."""
        if cumulative > LARGEST:
            raise CapExceeded(cumulative, LARGEST)
        keys = (channel_key_of(channel), credit_key(channel.payer))
        taken = self.leases.promised(jobs)
        shares = chain.from_iterable(taken.shares.items())
        crash_point("before:promise")
        try:
            promised, is_new = await self._redis.eval(PROMISE, 2, *keys, cumulative, channel.signer, *shares)
        except BaseException:
            # Whether it was heard is unknown: what the store counts too much goes with the lease's end.
            for lease, _, _ in taken.parts:
                self.leases.retire(lease)
            raise
        crash_point("after:promise")
        if not is_new:
            # As much was promised before: nothing was taken of what the jobs hold.
            self.leases.undo(taken)
        return int(promised)

    async def tidy(self) -> None:
        """Gives back what nobody needs here, or somebody needs elsewhere; to be called twice a second."""
        now, wanted = self._ticks(), await self._wanted()
        for lease in self.leases:
            is_idle = now - lease.used_at > IDLE_SECONDS
            if lease.lock.locked():
                continue
            if now - lease.began > MOST_AGE_SECONDS or (is_idle and not lease.parts):
                self.leases.retire(lease)
            if (lease.is_open or lease.back) and (lease.is_retired or is_idle or lease.payer in wanted):
                await self._give_back(lease)
            if lease.has_to_go:
                await self._end(lease)
        while self._orphans:
            orphan = self._orphans.pop()
            try:
                await self.release(*orphan)
            except StoreError:
                self._orphans.append(orphan)
                raise

    async def close(self) -> None:
        """Gives back all that is free."""
        self.leases.retire_all()
        await self.tidy()

    async def _ask(self, payer: Address, signer: Address, job: str, amount: int, lane: int) -> Answer:
        if not self._lease_jobs:
            return await self._try(payer, signer, job, amount, lane)
        standing, now = await self._authorised(payer, signer), self._ticks()
        lease = self.leases.current(payer, signer, lane, now)
        if lease.is_open and covered_by(standing) < lease.covered:
            # The payer took money out, or another signer's was collected: what was leased may be covered no more.
            await self._give_back(lease)
        # Of what came in since, another may have sold as much: a later fall counts from the most that was seen.
        lease.covered = max(lease.covered, covered_by(standing)) if lease.is_open else 0
        if self.leases.take(lease, job, amount, now):
            return HELD
        if now < lease.plain_until:
            return await self._try(payer, signer, job, amount, lane)
        # A client that leaves ends its waiting; the block is for all.
        work = asyncio.create_task(self._grow(lease, job, amount))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self._orphan(work, payer, job))
            raise

    async def _grow(self, lease: Lease, job: str, amount: int) -> Answer:
        """A block, and the job's part of it; or what the job gets by itself."""
        payer, signer, lane = lease.payer, lease.signer, lease.lane
        async with lease.lock:
            # Whoever held the lock may have got enough for us too.
            if self.leases.take(lease, job, amount, self._ticks()):
                return HELD
            try:
                name = "" if lease.is_retired else lease.name
                answer = await self._try(payer, signer, job, amount, lane, lease=name)
            except BaseException:
                self.leases.retire(lease)
                raise
            if answer.reason != "lease":
                lease.plain_until = self._ticks() + PLAIN_SECONDS
                return answer
            self.leases.note_block(lease, answer.left, answer.covered)
            if self.leases.take(lease, job, amount, self._ticks()):
                return HELD
        # Retired in the meantime.
        return await self._try(payer, signer, job, amount, lane)

    def _orphan(self, work: asyncio.Task[Answer], payer: Address, job: str) -> None:
        if not work.cancelled() and work.exception() is None and work.result().is_held:
            self._orphans.append((payer, job))

    async def _when_given_back(
        self, answer: Answer, payer: Address, signer: Address, job: str, amount: int, lane: int
    ) -> Answer:
        """The same once nothing is free of any lease; who does not give back in time is not waited for again."""
        for lease in self.leases:
            if lease.payer == payer and lease.is_open:
                await self._give_back(lease)
        waiting: frozenset[tuple[str, str]] = frozenset()
        for _ in range(AGAIN_TRIES):
            answer = await self._try(payer, signer, job, amount, lane)
            waiting = answer.leases - self._in_vain
            if not waiting:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)
        if len(self._in_vain) > KEPT_IN_VAIN:
            self._in_vain.clear()
        self._in_vain |= waiting
        return answer

    async def _give_back(self, lease: Lease) -> None:
        async with lease.lock:
            amount = self.leases.begin_back(lease)
            keys = credit_key(lease.payer), leases_key(lease.payer)
            crash_point("before:shrink")
            try:
                await self._redis.eval(SHRINK, 2, *keys, lease.name, amount)
            except StoreError:
                # Whether it was heard is unknown: what the store counts too much for it goes with its end.
                self.leases.retire(lease)
                raise
            crash_point("after:shrink")

    async def _end(self, lease: Lease) -> None:
        async with lease.lock:
            await self._redis.eval(RELEASE, 2, credit_key(lease.payer), leases_key(lease.payer), lease.name)
            self.leases.forget(lease)

    async def _wanted(self) -> set[Address]:
        payers = list({lease.payer for lease in self.leases if lease.is_open})
        found = await asyncio.gather(*(self._redis.hmget(leases_key(payer), "wanted") for payer in payers))
        now = self._clock()
        return {
            payer
            for payer, (since,) in zip(payers, found, strict=True)
            if since is not None and abs(now - int(since)) <= WANTED_SECONDS
        }

    async def _authorised(self, payer: Address, signer: Address, *, fresh: bool = False) -> Standing:
        standing = await self._standing(payer, signer, fresh)
        if not standing.authorised:
            raise SignerExpired(signer, standing.expiry)
        return standing

    async def _try(
        self, payer: Address, signer: Address, job: str, amount: int, lane: int, *, fresh: bool = False, lease: str = ""
    ) -> Answer:
        standing = await self._authorised(payer, signer, fresh=fresh)
        now = int(self._clock())
        numbers = [min(standing.balance, LARGEST), min(standing.used, LARGEST), min(standing.cap, LARGEST)]
        args = [job, min(amount, LARGEST), signer, *numbers, now, now + HOLD_SECONDS, lane]
        block = min(amount * self._lease_jobs, LARGEST)
        crash_point("before:hold")
        reason, left, *leases = await self._redis.eval(
            HOLD, 2, credit_key(payer), leases_key(payer), *args, lease, block
        )
        crash_point("after:hold")
        names = [each.decode() for each in leases]
        open_leases = frozenset(zip(names[::2], names[1::2], strict=True))
        return Answer(reason.decode(), int(left), open_leases, covered_by(standing))

    async def _refresh(self, payer: Address) -> None:
        key = credit_key(payer)
        for field in await self._redis.hkeys(key):
            kind, _, signer = field.decode().partition(":")
            if kind == "promised":
                standing = await self._standing(payer, Address(signer), True)
                crash_point("before:used")
                await self._redis.eval(USED, 1, key, signer, min(standing.used, LARGEST))
                crash_point("after:used")
