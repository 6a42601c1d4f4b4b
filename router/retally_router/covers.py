"""What covers a job after it began: held anew where the store lost it, and more of it where nodes were changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from retally.errors import RetallyError
from retally_router.asking import Asking, ended
from retally_router.credit_answer import Answer, Want
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import Lease, Leases, Part
from retally_router.promises import Share


class Covers:
    """What the jobs of a process hold, made to last."""

    def __init__(self, asking: Asking, leases: Leases, returns: LeaseReturns) -> None:
        self._asking = asking
        self._leases = leases
        self._returns = returns

    async def cover(self, job: str, amount: int, *, waits: bool) -> None:
        """Sees that a job holds so much of which nothing was promised; raises with what is missing.

        A job's hold is for one node. What was promised to others, who refused it or broke off, stays promised.
        """
        part = self._leases.part_of(job)
        # A dead router's holds what it holds: that is not counted here.
        if part is None or part.left >= amount:
            return
        # Who leaves ends its waiting; what was asked for is heard.
        work = asyncio.create_task(self._cover(part, amount, waits=waits))
        work.add_done_callback(_look_at)
        await asyncio.shield(work)

    async def renew(self, share: Share) -> None:
        """The store has too little of what covered a job: it holds for itself what it needs, or the promise ends."""
        part = share.part
        async with part.lock:
            if share.lease is not None:
                self._leases.lose(share.lease)
            if part.renewals == share.renewals and not part.is_over:
                await self._hold_alone(part, 0, waits=False)
            if part.is_over:
                self._returns.doubt(part.want.payer, part.want.job)
                raise ended(part.want)

    async def _hold_alone(self, part: Part, more: int, *, waits: bool) -> None:
        """The job holds for itself what it needs, and so much more."""
        want = replace(part.want, amount=part.left + part.flying + more)
        part.is_in_doubt = True
        await self._asking.surely(want, partial(self._asking.once, want), waits=waits)
        if not part.is_over:
            self._leases.note_renewed(part)
            self._leases.note_more(part, None, more)

    async def _cover(self, part: Part, amount: int, *, waits: bool) -> None:
        async with part.lock:
            while part.left < amount and not part.is_over:
                await self._extend(part, amount - part.left, waits=waits)
            if part.is_over and part.is_in_doubt:
                self._returns.doubt(part.want.payer, part.want.job)

    async def _extend(self, part: Part, more: int, *, waits: bool) -> None:
        """So much more of what its lease has free, or granted to the lease for it, or held by the job alone."""
        lease = part.lease
        if self._leases.extend(part, more):
            return
        if lease is None or lease.is_in_doubt:
            await self._hold_alone(part, more, waits=waits)
            return
        want = replace(part.want, amount=more)
        answer = await self._asking.surely(want, partial(self._grant, want, lease), waits=waits)
        if answer.is_held:
            self._leases.note_more(part, lease, more)

    async def _grant(self, want: Want, lease: Lease, *, fresh: bool = False) -> Answer:
        """Adds to a lease what one of its jobs wants."""
        async with lease.lock:
            try:
                answer = await self._asking.once(want, lease=lease, fresh=fresh)
            except RetallyError:
                raise
            except BaseException:
                self._leases.lose(lease)
                raise
        if answer.reason == "lost":
            self._leases.lose(lease)
        return answer


def _look_at(work: asyncio.Task[None]) -> None:
    """Whoever asked may have left."""
    if not work.cancelled():
        work.exception()
