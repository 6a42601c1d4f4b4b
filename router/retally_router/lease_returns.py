"""Gives credit back: what leases have free, leases that ended, holds of which nobody knows whether they were heard."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from retally.protocol.eip712 import Address
from retally_router.credit_store import CreditStore
from retally_router.leases import IDLE_SECONDS, Lease, Leases, is_lease

T = TypeVar("T")

#: So many are given back at once.
BATCH = 64


class LeaseReturns:
    """What a process owes the store."""

    def __init__(self, store: CreditStore, leases: Leases, ticks: Callable[[], float]) -> None:
        self._store = store
        self._leases = leases
        self._ticks = ticks
        #: Each with a number of its own: one that comes back while it is settled is another.
        self._doubts: dict[tuple[Address, str], int] = {}
        self._numbers = itertools.count()

    def doubt(self, payer: Address, job: str) -> None:
        """The job has ended, and what it holds is not known: it is released until that was heard."""
        self._doubts[payer, job] = next(self._numbers)

    async def release(self, payer: Address, name: str, *, in_doubt: bool = False, settled: Sequence[str] = ()) -> None:
        """Ends the hold of a job, or of a dead process's lease; of a job settled there, if it is open nowhere else."""
        part = self._leases.end(name)
        lease = None if part is None else part.lease
        in_doubt = in_doubt or is_lease(name) or (part is not None and (part.is_in_doubt or part.is_expected))
        if lease is None or in_doubt:
            # In doubt, a job of a lease may hold for itself as well, or be about to.
            try:
                await self._store.release(payer, name, in_doubt=in_doubt, settled=settled)
            except BaseException:
                # Of a job of another's, whoever asked asks again.
                if not settled:
                    self.doubt(payer, name)
                raise
        if lease is not None and lease.back:
            await self.give_back(lease)

    async def give_back(self, lease: Lease) -> None:
        """All that is free of it."""
        async with lease.lock:
            amount, was_in_doubt = self._leases.begin_back(lease), lease.is_in_doubt
            lease.is_in_doubt = was_in_doubt and bool(lease.flying)
            try:
                was_backed = await self._store.shrink(lease, amount, in_doubt=was_in_doubt)
            except BaseException:
                self._leases.lose(lease)
                raise
            if not was_backed and not was_in_doubt:
                self._leases.lose(lease)

    async def give_back_all(self, leases: Iterable[Lease]) -> None:
        """Several at once."""
        await in_batches([partial(self.give_back, lease) for lease in leases])

    async def tidy(self) -> None:
        """Gives back what nobody needs here, or somebody needs elsewhere; to be called twice a second."""
        now, wanted = self._ticks(), await self._wanted()
        due: list[Lease] = []
        for lease in self._leases:
            is_wanted = (lease.payer, lease.signer) in wanted
            # Who waits elsewhere waits for no end of a rush here.
            if lease.lock.locked() and not is_wanted:
                continue
            is_idle = now - lease.used_at > IDLE_SECONDS
            if lease.is_old(now) or (is_idle and not lease.parts):
                self._leases.retire(lease)
            if lease.is_expired(now):
                self._leases.abandon(lease)
            is_more = lease.is_open or lease.back or lease.is_in_doubt
            if is_more and (lease.is_retired or is_idle or is_wanted):
                # For those who wait for it they go first.
                due.insert(0, lease) if is_wanted else due.append(lease)
        await self.give_back_all(due)
        gone = [lease for lease in self._leases if lease.has_to_go and not lease.lock.locked()]
        await in_batches([partial(self._end, lease) for lease in gone])
        await in_batches([partial(self._settle_doubt, *each) for each in self._doubts])

    async def close(self) -> None:
        """Gives back all that is free, once no block is on its way."""
        self._leases.retire_all()
        for lease in self._leases:
            async with lease.lock:
                continue
        await self.tidy()

    async def settle_doubts(self, payer: Address) -> None:
        """Those of one payer, now."""
        await in_batches([partial(self._settle_doubt, *each) for each in self._doubts if each[0] == payer])

    async def _settle_doubt(self, payer: Address, job: str) -> None:
        # It stays in sight until the release was heard: who is refused meanwhile has to wait for it.
        settled = self._doubts.get((payer, job))
        await self.release(payer, job, in_doubt=True)
        if self._doubts.get((payer, job)) == settled:
            self._doubts.pop((payer, job), None)

    async def _end(self, lease: Lease) -> None:
        async with lease.lock:
            if lease.has_to_go:
                await self._store.release(lease.payer, lease.name, in_doubt=lease.is_in_doubt)
                self._leases.forget(lease)

    async def _wanted(self) -> set[tuple[Address, Address]]:
        owners = list({(lease.payer, lease.signer) for lease in self._leases if lease.is_open})
        found = await in_batches([partial(self._store.is_wanted, owner) for owner in owners])
        return {owner for owner, is_wanted in zip(owners, found, strict=True) if is_wanted}


async def in_batches(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """All of them, many in one round trip; raises the first error, and asks a store that is gone no further."""
    results: list[T] = []
    errors: list[BaseException] = []
    for start in range(0, len(works), BATCH):
        batch = [work() for work in works[start : start + BATCH]]
        failed = 0
        for found in await asyncio.gather(*batch, return_exceptions=True):
            if isinstance(found, BaseException):
                errors.append(found)
                failed += 1
            else:
                results.append(found)
        if failed == len(batch):
            break
    if errors:
        raise errors[0]
    return results
