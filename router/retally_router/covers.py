"""What covers a job after it began: held anew where the store lost it, and more of it where nodes were changed."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from retally_router.asking import Asking, Patience, ended
from retally_router.credit_answer import HELD, Answer
from retally_router.credit_store import CreditStore
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import Leases, Part
from retally_router.ports import Standing
from retally_router.promises import Share


class Covers:
    """What the jobs of a process hold, made to last."""

    def __init__(self, store: CreditStore, asking: Asking, leases: Leases, returns: LeaseReturns) -> None:
        self._store = store
        self._asking = asking
        self._leases = leases
        self._returns = returns

    async def extend(self, part: Part, amount: int, patience: Patience) -> None:
        """Sees that a job holds so much of which nothing was promised; raises with what is missing."""
        # Who leaves ends its waiting; what was asked for is heard.
        work = asyncio.create_task(self._extend(part, amount, patience))
        work.add_done_callback(_look_at)
        await asyncio.shield(work)

    async def renew(self, share: Share) -> None:
        """The store has too little of what covered a job: it holds for itself what it needs, or the promise ends."""
        part = share.part
        if share.lease is not None:
            self._leases.lose(share.lease)
        if part.renewals == share.renewals and not part.is_over:
            await self._hold_alone(part, None, share.renewals, Patience.SOME)
        if part.is_over:
            self._returns.doubt(part.want.payer, part.want.job)
            raise ended(part.want)

    async def _extend(self, part: Part, amount: int, patience: Patience) -> None:
        while not part.is_over:
            async with part.lock:
                # What another has asked of the store is known then.
                pass
            if part.left >= amount or self._leases.extend(part, amount - part.left):
                return
            await self._hold_alone(part, amount, part.renewals, patience)
        raise ended(part.want)

    async def _hold_alone(self, part: Part, least: int | None, renewals: int, patience: Patience) -> None:
        want = replace(part.want, amount=max(part.left, least or 0) + part.flying)
        await self._asking.surely(want, partial(self._move, part, least, renewals), patience)

    async def _move(self, part: Part, least: int | None, renewals: int, standing: Standing) -> Answer:
        """A hold of the job's own over all that it needs, with what its lease has for it; unless another made it."""
        async with part.lock, nullcontext() if part.lease is None else part.lease.lock:
            if _is_needless(part, least, renewals):
                return HELD
            more, lease = max(0, (least or 0) - part.left), part.lease
            want = replace(part.want, amount=part.left + part.flying + more)
            was_in_doubt, part.is_in_doubt = part.is_in_doubt, True
            try:
                answer = await self._store.hold(want, standing, source=lease, moved=part.left)
            except BaseException:
                if lease is not None:
                    self._leases.lose(lease)
                raise
            part.is_in_doubt = was_in_doubt
            if part.is_over:
                self._returns.doubt(part.want.payer, part.want.job)
            elif answer.is_held:
                self._leases.note_alone(part, more, answer.left)
            return answer


def is_enough(part: Part, amount: int) -> bool:
    """Whether so much may be promised of what a job holds, now."""
    return part.left >= amount and not part.lock.locked()


def _is_needless(part: Part, least: int | None, renewals: int) -> bool:
    """Whether the job has ended, or got in the meantime what it shall get."""
    return part.is_over or part.renewals != renewals or (least is not None and part.left >= least)


def _look_at(work: asyncio.Task[None]) -> None:
    """Whoever asked may have left."""
    if not work.cancelled():
        work.exception()
