"""What a payer may still promise here: outstanding promises and holds against what the chain has for it.

While much is left, a process leases credit in blocks and its jobs take from that without a round trip (`leases.py`);
near the end each job asks for itself, so that the last unit is sold and a refusal is true. Nothing is promised that the
store does not find held: what it forgot has to be held anew first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from retally.errors import CapExceeded, RetallyError
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.asking import Asking, ReadStanding
from retally_router.covers import Covers
from retally_router.credit_answer import HELD, Answer, Want, covered_by
from retally_router.credit_store import LARGEST, CreditStore
from retally_router.earmarks import Ask, Count, Promised
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import PLAIN_SECONDS, Lease, Leases
from retally_router.patience import Patience
from retally_router.ports import Standing
from retally_router.promises import Promises, Wanted

NOTHING = Count()


class Credit:
    """Holds an amount for each job in flight, counts promises, refuses what the chain does not cover."""

    def __init__(
        self,
        redis: Any,
        standing: ReadStanding,
        clock: Callable[[], float] = time.time,
        *,
        lease_jobs: int = 0,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = CreditStore(redis, clock)
        self._lease_jobs = lease_jobs
        self._ticks = ticks
        #: What this process leased, and what its jobs hold.
        self.leases = Leases()
        self._promises = Promises(self.leases)
        self._returns = LeaseReturns(self._store, self.leases, ticks)
        self._asking = Asking(self._store, standing, self.leases, self._returns)
        self._covers = Covers(self._store, self._asking, self.leases, self._promises, self._returns)

    async def hold(self, payer: Address, signer: Address, job: str, amount: int, *, lane: int = 0) -> None:
        """Sets the job's largest fee aside; raises with what is missing. The lane names the process that holds."""
        want = Want(payer, signer, job, amount, lane)
        try:
            if not (await self._ask(want)).is_held:
                await self._asking.insist(want, partial(self._asking.alone, want))
            self.leases.note_own(want)
        except RetallyError:
            raise
        except BaseException:
            # Its client left, or the store broke off: whether it holds something is unknown.
            self._returns.doubt(payer, job)
            raise

    async def release(self, payer: Address, job: str, *, settled: Sequence[str] = ()) -> None:
        """Ends the hold of a job or of a lease; what was promised for it stays counted.

        Of one that another process began, and that is open elsewhere than where it was settled, it stays.
        """
        await self._returns.release(payer, job, settled=settled)

    async def holds(self, payer: Address, signer: Address) -> list[tuple[str, int]]:
        """The signer's jobs and leases that hold something, each with the lane of the process that holds it."""
        found = []
        for job, value in await self._store.fields(payer, "hold"):
            _, holder, _, lane = value.split("|")
            found += [(job, int(lane))] if holder == signer else []
        return found

    async def promise(self, channel: ChannelId, asks: Sequence[Ask] = (), count: Count = NOTHING) -> Promised:
        """Records for which jobs a channel's total is to have how much, and a total that is counted elsewhere.

        Where a job holds too little, or the store lost what it held, and nothing is left, what others owe is promised,
        and what it owes as far as it holds that; the answer says why it is less. Raises where that is nothing. Others'
        leases are not waited for.
        """
        if (most := max([count.total, *(ask.total for ask in asks)])) > LARGEST:
            raise CapExceeded(most, LARGEST)
        # One that ends meanwhile is no stranger: what covered it is gone.
        wanted = Wanted(asks, [self.leases.part_of(ask.job) for ask in asks])
        while True:
            # Nothing is awaited between the last look and the taking: no other promise comes in between.
            while short := wanted.short():
                # Of what seems to be missing some may be on record.
                unheard = [part for part, _ in short if part.unheard]
                for part in unheard:
                    await self._covers.hear(part)
                for part, more in () if unheard else short:
                    work = self._covers.extend(part, more, wanted.patience)
                    if not await wanted.unless_short(part, work, is_lost=False):
                        break
            wanted.leave_forgotten()
            taken = self._promises.take(wanted)
            try:
                found = await self._store.promise(channel, taken.asks, taken.holds, count)
            except BaseException:
                self._promises.doubt(channel, taken)
                raise
            if isinstance(found, Promised):
                self._promises.record(taken, found.earmarks)
                return replace(found, uncovered=wanted.uncovered)
            self._promises.refuse(taken, found.earmarks)
            for share in taken.uncovered(found.hold):
                if wanted.has(share.part):
                    work = self._covers.renew(share, wanted.patience)
                    await wanted.unless_short(share.part, work, is_lost=True)

    async def cover(self, job: str, amount: int, patience: Patience = Patience.ALL) -> None:
        """Sees that a job holds so much of which nothing was promised; raises with what is missing.

        A job's hold is for one node. What was promised to others, who refused it or broke off, stays promised.
        """
        part = self.leases.part_of(job)
        # What a dead router's job holds is not counted here.
        if part is not None and not part.has(amount):
            await self._covers.extend(part, amount, patience)

    async def tidy(self) -> None:
        """Gives back what nobody needs here, or somebody needs elsewhere; to be called twice a second."""
        await self._returns.tidy()

    async def close(self) -> None:
        """Gives back all that is free."""
        await self._returns.close()

    async def _ask(self, want: Want) -> Answer:
        if not self._lease_jobs:
            return await self._asking.once(want, partial(self._asking.alone, want))
        standing, now = await self._asking.authorised(want.payer, want.signer), self._ticks()
        lease = self.leases.current(want, now)
        if lease.is_open and covered_by(standing) < lease.covered:
            # The payer took money out, or another signer's was collected: what was leased may be covered no more.
            await self._returns.give_back(lease)
        # Of what came in since, another may have sold as much: a later fall counts from the most that was seen.
        lease.covered = max(lease.covered, covered_by(standing)) if lease.is_open else 0
        if self.leases.take(lease, want, now):
            return HELD
        if now < lease.plain_until:
            return await self._asking.once(want, partial(self._asking.alone, want))
        # A client that leaves ends its waiting; the block is for all.
        work = asyncio.create_task(self._grow(lease, want))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self._leave(work, want))
            raise

    async def _grow(self, lease: Lease, want: Want) -> Answer:
        """A block, and the job's part of it; or what the job gets by itself."""
        async with lease.lock:
            # Whoever held the lock may have got enough for us too.
            if self.leases.take(lease, want, self._ticks()):
                return HELD
            # Or have heard that there is no block to be had.
            if self._ticks() >= lease.plain_until:
                answer = await self._ask_block(lease, want)
                if answer is not None:
                    return answer
        # Not one after the other: a burst that stands here asks at once.
        return await self._asking.once(want, partial(self._asking.alone, want))

    async def _ask_block(self, lease: Lease, want: Want) -> Answer | None:
        """What the job has or hears by asking for a block; none where it has to ask for itself."""
        try:
            answer = await self._asking.once(want, partial(self._ask_store, lease, want))
        except RetallyError:
            # The chain's: nothing was asked.
            raise
        except BaseException:
            self.leases.lose(lease)
            raise
        if answer.reason == "lost":
            self.leases.lose(lease)
            return None
        if answer.reason != "lease":
            lease.plain_until = self._ticks() + PLAIN_SECONDS
            return answer
        self.leases.note_block(lease, answer.left, answer.covered, self._ticks())
        # It may have been retired in the meantime.
        return HELD if self.leases.take(lease, want, self._ticks()) else None

    async def _ask_store(self, lease: Lease, want: Want, standing: Standing) -> Answer:
        of = None if lease.is_retired else lease
        return await self._store.hold(want, standing, lease=of, block=want.amount * self._lease_jobs)

    def _leave(self, work: asyncio.Task[Answer], want: Want) -> None:
        """What a job got after its client had left goes back."""
        if not work.cancelled():
            work.exception()
        self._returns.doubt(want.payer, want.job)
