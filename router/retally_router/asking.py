"""Asking the store for credit: by what the chain has, and again where it refused, until a refusal is true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from retally.errors import CapExceeded, ChainUnreachable, InsufficientFunds, PaymentRequired, SignerExpired, Unavailable
from retally.protocol.eip712 import Address
from retally_router.credit_answer import Answer, Want
from retally_router.credit_store import CreditStore
from retally_router.lease_returns import LeaseReturns, in_batches
from retally_router.leases import Lease, Leases
from retally_router.patience import Patience
from retally_router.ports import Standing

#: A refusal waits for two seconds until others gave back what is free of their leases, and asks so often meanwhile.
AGAIN_SECONDS, AGAIN_TRIES = 0.1, 20
KEPT_IN_VAIN = 10_000

ReadStanding = Callable[[Address, Address, bool], Awaitable[Standing]]
#: Asks once, with what the chain has.
Ask = Callable[[Standing], Awaitable[Answer]]


class Asking:
    """What a process asks for its jobs."""

    def __init__(self, store: CreditStore, standing: ReadStanding, leases: Leases, returns: LeaseReturns) -> None:
        self._store = store
        self._standing = standing
        self._leases = leases
        self._returns = returns
        self._in_vain: set[tuple[str, str]] = set()

    async def authorised(self, payer: Address, signer: Address, *, fresh: bool = False) -> Standing:
        """What the chain has for a signer that may spend."""
        standing = await self._standing(payer, signer, fresh)
        if not standing.authorised:
            raise SignerExpired(signer, standing.expiry)
        return standing

    async def alone(self, want: Want, standing: Standing) -> Answer:
        """A hold of the job's own."""
        return await self._store.hold(want, standing)

    async def once(self, want: Want, ask: Ask, *, fresh: bool = False) -> Answer:
        """Asks by a look at the chain, and by fresh ones where somebody has a later one."""
        for tries in range(3):
            if tries == 2:
                # Several servers behind one address need not have the same blocks.
                await asyncio.sleep(AGAIN_SECONDS)
            standing = await self.authorised(want.payer, want.signer, fresh=fresh or tries > 0)
            answer = await ask(standing)
            if answer.reason == "ended":
                raise ended(want)
            if answer.reason != "stale":
                return answer
        raise ChainUnreachable("this router's chain is behind what another has seen of it", hint="retry in seconds")

    async def surely(self, want: Want, ask: Ask, patience: Patience) -> None:
        """Asks, and where that is refused as patiently as is said; raises with what is missing."""
        answer = await self.once(want, ask)
        if not answer.is_held and patience is Patience.NONE:
            raise refused(want, answer)
        if not answer.is_held:
            await self.insist(want, ask, patience)

    async def insist(self, want: Want, ask: Ask, patience: Patience = Patience.ALL) -> None:
        """Asks again where it was refused; raises with what is missing if that is true."""
        # Collections of the payer's other signers may only look outstanding: read the chain again, once.
        await self._refresh(want.payer)
        # What clients who left may hold is no reason to refuse.
        await self._returns.settle_doubts(want.payer)
        answer = await self.once(want, ask, fresh=True)
        if not answer.is_held and (answer.leases or self._surplus(want, answer)):
            tries = AGAIN_TRIES if patience is Patience.ALL else 0
            answer = await self._when_given_back(answer, want, ask, tries=tries)
        if not answer.is_held:
            raise refused(want, answer)

    async def _when_given_back(self, answer: Answer, want: Want, ask: Ask, *, tries: int) -> Answer:
        """The same once nothing is free of any lease; who does not give back in time is not waited for again."""
        await self._returns.give_back_all(self._surplus(want, answer))
        answer = await self.once(want, ask)
        for _ in range(tries):
            if not answer.leases - self._in_vain:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)
            answer = await self.once(want, ask)
        if len(self._in_vain) > KEPT_IN_VAIN:
            self._in_vain.clear()
        self._in_vain |= answer.leases if tries else frozenset()
        return answer

    def _surplus(self, want: Want, answer: Answer) -> list[Lease]:
        """The own leases of which the store may have more than their jobs need."""
        own = [lease for lease in self._leases if lease.payer == want.payer]
        some = [lease for lease in own if lease.is_open or lease.back or lease.is_in_doubt]
        return [lease for lease in some if answer.reason == "funds" or lease.signer == want.signer]

    async def _refresh(self, payer: Address) -> None:
        used = dict(await self._store.fields(payer, "used"))
        promised = await self._store.fields(payer, "promised")
        # Whose promises were all collected has nothing that could only look outstanding.
        signers = [Address(name) for name, total in promised if int(total) > int(used.get(name, 0))]
        await in_batches([partial(self._look_at, payer, signer) for signer in signers])

    async def _look_at(self, payer: Address, signer: Address) -> None:
        # Twice where another signer was seen at a later block in the meantime.
        for _ in range(2):
            if await self._store.note_used(payer, signer, await self._standing(payer, signer, True)):
                break


def refused(want: Want, answer: Answer) -> PaymentRequired:
    """What is said of a job for which too little is left."""
    return (CapExceeded if answer.reason == "cap" else InsufficientFunds)(want.amount, answer.left)


def ended(want: Want) -> Unavailable:
    """What is said of a job that ended before it held anything."""
    return Unavailable(f"job {want.job} ended before its fee was set aside", hint="send the request again")
