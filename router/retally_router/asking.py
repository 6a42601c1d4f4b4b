"""Asking the store for credit: by what the chain has, and again where it refused, until a refusal is true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from retally.errors import CapExceeded, ChainUnreachable, InsufficientFunds, SignerExpired, Unavailable
from retally.protocol.eip712 import Address
from retally_router.credit_answer import Answer, Want
from retally_router.credit_store import CreditStore
from retally_router.lease_returns import LeaseReturns
from retally_router.leases import Lease, Leases
from retally_router.ports import Standing

#: A refusal waits for two seconds until others gave back what is free of their leases, and asks so often meanwhile.
AGAIN_SECONDS, AGAIN_TRIES = 0.1, 20
KEPT_IN_VAIN = 10_000

#: Asks once, by a fresh look at the chain where `fresh=True`.
Ask = Callable[..., Awaitable[Answer]]
ReadStanding = Callable[[Address, Address, bool], Awaitable[Standing]]


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

    async def once(self, want: Want, *, lease: Lease | None = None, block: int = 0, fresh: bool = False) -> Answer:
        """For the job alone, or for its lease: a block, or no more than the job wants."""
        for is_fresh in (fresh, True):
            standing = await self.authorised(want.payer, want.signer, fresh=is_fresh)
            answer = await self._store.hold(want, standing, lease, block)
            if answer.reason != "stale":
                return answer
        raise ChainUnreachable(
            "this router's chain is behind what another has seen of it", hint="retry in a few seconds"
        )

    async def surely(self, want: Want, ask: Ask, *, waits: bool) -> Answer:
        """Asks, and where that is refused insists."""
        answer = await ask()
        return answer if answer.reason in ("ok", "lost") else await self.insist(want, ask, waits=waits)

    async def insist(self, want: Want, ask: Ask, *, waits: bool = True) -> Answer:
        """Asks again where it was refused; raises with what is missing if that is true."""
        # Collections of the payer's other signers may only look outstanding: read the chain again, once.
        await self._refresh(want.payer)
        # What clients who left may hold is no reason to refuse.
        await self._returns.settle_doubts(want.payer)
        answer = await ask(fresh=True)
        if answer.leases:
            answer = await self._when_given_back(answer, want, ask, tries=AGAIN_TRIES if waits else 0)
        if answer.reason == "cap":
            raise CapExceeded(want.amount, answer.left)
        if answer.reason == "funds":
            raise InsufficientFunds(want.amount, answer.left)
        if answer.reason == "ended":
            raise ended(want)
        return answer

    async def _when_given_back(self, answer: Answer, want: Want, ask: Ask, *, tries: int) -> Answer:
        """The same once nothing is free of any lease; who does not give back in time is not waited for again."""
        own = [lease for lease in self._leases if lease.payer == want.payer and lease.is_open]
        await self._returns.give_back_all(
            lease for lease in own if answer.reason == "funds" or lease.signer == want.signer
        )
        answer = await ask()
        for _ in range(tries):
            if not answer.leases - self._in_vain:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)
            answer = await ask()
        if len(self._in_vain) > KEPT_IN_VAIN:
            self._in_vain.clear()
        self._in_vain |= answer.leases if tries else frozenset()
        return answer

    async def _refresh(self, payer: Address) -> None:
        for name, _ in await self._store.fields(payer, "promised"):
            signer = Address(name)
            standing = await self._standing(payer, signer, True)
            await self._store.note_used(payer, signer, standing)


def ended(want: Want) -> Unavailable:
    """What is said of a job that ended before it held anything."""
    return Unavailable(f"job {want.job} ended before its fee was set aside", hint="send the request again")
