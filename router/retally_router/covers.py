"""What covers a job after it began: held anew where the store lost it, and more of it where nodes were changed."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from retally_router.asking import Asking, ended
from retally_router.credit_answer import HELD, Answer
from retally_router.credit_store import CreditStore
from retally_router.earmarks import Ask, Count
from retally_router.grouped_tasks import look_at
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import Leases, Part
from retally_router.patience import Patience
from retally_router.ports import Standing
from retally_router.promises import Promises, Share


class Covers:
    """What the jobs of a process hold, made to last."""

    def __init__(
        self, store: CreditStore, asking: Asking, leases: Leases, promises: Promises, returns: LeaseReturns
    ) -> None:
        self._store = store
        self._asking = asking
        self._leases = leases
        self._promises = promises
        self._returns = returns

    async def extend(self, part: Part, amount: int, patience: Patience) -> None:
        """Sees that a job holds so much of which nothing was promised; raises with what is missing, or if it ended."""
        # Who leaves ends its waiting; what was asked for is heard.
        work = asyncio.create_task(self._extend(part, amount, patience))
        work.add_done_callback(look_at)
        await asyncio.shield(work)

    async def hear(self, part: Part) -> None:
        """Looks up what promises took of it whose answers were lost: that is held no more."""
        for place, channel in list(part.unheard.items()):
            look = await self._store.promise(channel, [Ask(place, part.want.job, 0)], {}, Count())
            self._promises.hear(part, place, look.earmarks)

    async def renew(self, share: Share, patience: Patience = Patience.SOME) -> None:
        """The store has too little of what covered a job: it holds for itself what it needs, or the promise ends."""
        part = share.part
        if share.lease is not None:
            self._leases.lose(share.lease)
        if part.renewals == share.renewals and not part.is_over:
            want = replace(part.want, amount=part.left)
            await self._asking.surely(want, partial(self._anew, part, share.renewals), patience)
        if part.is_over:
            self._returns.doubt(part.want.payer, part.want.job)
            raise ended(part.want)

    async def _extend(self, part: Part, amount: int, patience: Patience) -> None:
        while not part.has(amount):
            if part.is_over:
                raise ended(part.want)
            if not part.lock.locked() and part.left < amount and self._leases.add(part, amount - part.left):
                return
            # Of this it tells who is refused.
            want = replace(part.want, amount=max(part.left, amount))
            await self._asking.surely(want, partial(self._more, part, amount), patience)

    async def _anew(self, part: Part, renewals: int, standing: Standing) -> Answer:
        async with part.lock:
            return HELD if part.renewals != renewals else await self._hold_alone(part, 0, standing)

    async def _more(self, part: Part, amount: int, standing: Standing) -> Answer:
        async with part.lock:
            is_there = part.left >= amount and not part.is_in_doubt
            return HELD if is_there else await self._hold_alone(part, amount, standing)

    async def _hold_alone(self, part: Part, least: int, standing: Standing) -> Answer:
        """A hold of the job's own over all that it needs, with what its lease has for it.

        Its lock is held: nothing is promised of it, so that what it needs is known to the end.
        """
        await part.landing()
        lease = part.lease
        # A lease in doubt is looked at again in any case; the jobs of one that is lost come all at once.
        async with nullcontext() if lease is None or lease.is_in_doubt else lease.lock:
            await self.hear(part)
            if part.is_over:
                return HELD
            more = max(0, least - part.left)
            want = replace(part.want, amount=part.left + more)
            was_in_doubt, part.is_in_doubt = part.is_in_doubt, True
            try:
                answer = await self._store.hold(want, standing, source=lease, moved=part.left)
            except BaseException:
                part.is_expected = True
                if lease is not None:
                    self._leases.lose(lease)
                raise
            part.is_in_doubt = was_in_doubt and not answer.is_held
            self._note(part, more, answer)
            return answer

    def _note(self, part: Part, more: int, answer: Answer) -> None:
        if part.is_over:
            # It ended while this was asked: what came of it goes.
            self._returns.doubt(part.want.payer, part.want.job)
        elif answer.is_held:
            self._leases.note_alone(part, more, answer.took)
