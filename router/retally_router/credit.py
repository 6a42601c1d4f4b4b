"""What a payer may still promise here: outstanding promises and holds against what the chain has for it.

While much is left, a process leases credit in blocks and its jobs take from that without a round trip (`leases.py`);
near the end each job asks for itself, so that the last unit is sold and a refusal is true. Nothing is promised that the
store does not find held: what it forgot has to be held anew first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from retally.errors import CapExceeded, InsufficientFunds, RetallyError, SignerExpired, Unavailable
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit_answer import HELD, Answer, Want, covered_by
from retally_router.credit_store import LARGEST, CreditStore, Promise
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import PLAIN_SECONDS, Lease, Leases
from retally_router.ports import Standing
from retally_router.promises import Promises, Share

#: A refusal waits for two seconds until others gave back what is free of their leases, and asks so often meanwhile.
AGAIN_SECONDS, AGAIN_TRIES = 0.1, 20
KEPT_IN_VAIN = 10_000
NO_JOBS: Mapping[str, int] = MappingProxyType({})


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
        self._store = CreditStore(redis, clock)
        self._standing = standing
        self._lease_jobs = lease_jobs
        self._ticks = ticks
        self._in_vain: set[tuple[str, str]] = set()
        #: What this process leased, and what its jobs hold.
        self.leases = Leases()
        self._promises = Promises(self.leases)
        self._returns = LeaseReturns(self._store, self.leases, ticks)

    async def hold(self, payer: Address, signer: Address, job: str, amount: int, *, lane: int = 0) -> None:
        """Sets the job's largest fee aside; raises with what is missing. The lane names the process that holds."""
        want = Want(payer, signer, job, amount, lane)
        try:
            if not (await self._ask(want)).is_held:
                await self._insist(want)
            self.leases.note_own(want)
        except RetallyError:
            raise
        except BaseException:
            # Its client left, or the store broke off: whether it holds something is unknown.
            self._returns.doubt(payer, job)
            raise

    async def release(self, payer: Address, job: str) -> None:
        """Ends the hold of a job or of a lease; what was promised for it stays counted."""
        await self._returns.release(payer, job)

    async def holds(self, payer: Address, signer: Address) -> list[tuple[str, int]]:
        """The signer's jobs and leases that hold something, each with the lane of the process that holds it."""
        found = []
        for job, value in await self._store.fields(payer, "hold"):
            _, holder, _, lane = value.split("|")
            found += [(job, int(lane))] if holder == signer else []
        return found

    async def promise(self, channel: ChannelId, cumulative: int, jobs: Mapping[str, int] = NO_JOBS) -> int:
        """Records the highest total promised on a channel, and for which jobs; answers the highest so far.

        Raises where a job has nothing that covers it any more, and nothing is left: without waiting for others' leases.
        """
        if cumulative > LARGEST:
            raise CapExceeded(cumulative, LARGEST)
        while True:
            taken = self._promises.take(jobs)
            try:
                promised, state, hold = await self._store.promise(channel, cumulative, taken)
            except BaseException:
                self._promises.doubt(channel, cumulative, taken)
                raise
            if state == Promise.NEW:
                self._promises.record(channel, taken)
                return promised
            self._promises.put_back(taken)
            heard = self._promises.heard(channel, promised)
            if state == Promise.OLD:
                return promised
            jobs = {job: share - min(share, heard.get(job, 0)) for job, share in jobs.items()}
            # What was heard may be all that is missing.
            for share in taken.uncovered(hold) if not heard else ():
                await self._renew(share)

    async def tidy(self) -> None:
        """Gives back what nobody needs here, or somebody needs elsewhere; to be called twice a second."""
        await self._returns.tidy()

    async def close(self) -> None:
        """Gives back all that is free."""
        await self._returns.close()

    async def _ask(self, want: Want) -> Answer:
        if not self._lease_jobs:
            return await self._try(want)
        standing, now = await self._authorised(want.payer, want.signer), self._ticks()
        lease = self.leases.current(want, now)
        if lease.is_open and covered_by(standing) < lease.covered:
            # The payer took money out, or another signer's was collected: what was leased may be covered no more.
            await self._returns.give_back(lease)
        # Of what came in since, another may have sold as much: a later fall counts from the most that was seen.
        lease.covered = max(lease.covered, covered_by(standing)) if lease.is_open else 0
        if self.leases.take(lease, want, now):
            return HELD
        if now < lease.plain_until:
            return await self._try(want)
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
        return await self._try(want)

    async def _ask_block(self, lease: Lease, want: Want) -> Answer | None:
        """What the job has or hears by asking for a block; none where it has to ask for itself."""
        try:
            answer = await self._try(want, lease=None if lease.is_retired else lease)
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

    def _leave(self, work: asyncio.Task[Answer], want: Want) -> None:
        """What a job got after its client had left goes back."""
        if not work.cancelled():
            work.exception()
        self._returns.doubt(want.payer, want.job)

    async def _renew(self, share: Share) -> None:
        """The store has too little of what covered a job: it holds for itself what it needs, or the promise ends."""
        part = share.part
        async with part.lock:
            if share.lease is not None:
                self.leases.lose(share.lease)
            if part.renewals == share.renewals and not part.is_over:
                want = replace(part.want, amount=part.left + part.flying)
                part.is_in_doubt = True
                if not (await self._try(want)).is_held:
                    await self._insist(want, waits=False)
                if not part.is_over:
                    self.leases.note_renewed(part)
            if part.is_over:
                self._returns.doubt(part.want.payer, part.want.job)
                raise _ended(part.want)

    async def _insist(self, want: Want, *, waits: bool = True) -> None:
        """Asks again where it was refused; raises with what is missing if that is true."""
        # Collections of the payer's other signers may only look outstanding: read the chain again, once.
        await self._refresh(want.payer)
        # What clients who left may hold is no reason to refuse.
        await self._returns.settle_doubts(want.payer)
        answer = await self._try(want, fresh=True)
        if answer.leases:
            answer = await self._when_given_back(answer, want, tries=AGAIN_TRIES if waits else 0)
        if answer.reason == "cap":
            raise CapExceeded(want.amount, answer.left)
        if answer.reason == "funds":
            raise InsufficientFunds(want.amount, answer.left)
        if not answer.is_held:
            raise _ended(want)

    async def _when_given_back(self, answer: Answer, want: Want, *, tries: int) -> Answer:
        """The same once nothing is free of any lease; who does not give back in time is not waited for again."""
        own = [lease for lease in self.leases if lease.payer == want.payer and lease.is_open]
        await self._returns.give_back_all(
            lease for lease in own if answer.reason == "funds" or lease.signer == want.signer
        )
        answer = await self._try(want)
        for _ in range(tries):
            if not answer.leases - self._in_vain:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)
            answer = await self._try(want)
        if len(self._in_vain) > KEPT_IN_VAIN:
            self._in_vain.clear()
        self._in_vain |= answer.leases if tries else frozenset()
        return answer

    async def _authorised(self, payer: Address, signer: Address, *, fresh: bool = False) -> Standing:
        standing = await self._standing(payer, signer, fresh)
        if not standing.authorised:
            raise SignerExpired(signer, standing.expiry)
        return standing

    async def _try(self, want: Want, *, fresh: bool = False, lease: Lease | None = None) -> Answer:
        standing = await self._authorised(want.payer, want.signer, fresh=fresh)
        return await self._store.hold(want, standing, lease, want.amount * self._lease_jobs)

    async def _refresh(self, payer: Address) -> None:
        for name, _ in await self._store.fields(payer, "promised"):
            signer = Address(name)
            standing = await self._standing(payer, signer, True)
            await self._store.note_used(payer, signer, standing.used)


def _ended(want: Want) -> Unavailable:
    return Unavailable(f"job {want.job} ended before its fee was set aside", hint="send the request again")
