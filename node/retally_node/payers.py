"""Payers as the Escrow sees them, asked at most every few seconds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial

from retally.chain.escrow import Escrow
from retally.errors import ChainUnreachable
from retally.protocol.encoding import ZERO_ADDRESS, Address
from retally_node.ports import Standing

STALE_SECONDS = 60.0
MOST_SEEN = 10_000


@dataclass(frozen=True, slots=True)
class _Seen:
    standing: Standing
    at: float


class ChainPayers:
    """Payers over the Escrow's views; for a minute an unreachable chain is answered from memory."""

    def __init__(self, escrow: Escrow, node: Address, fresh_seconds: float) -> None:
        self._escrow = escrow
        self._node = node
        self._fresh_seconds = fresh_seconds
        #: The latest last; strangers are many and cost nothing.
        self._seen: dict[tuple[Address, Address], _Seen] = {}
        self._reading: dict[tuple[Address, Address], asyncio.Task[Standing]] = {}

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """How a payer and its signer stand now."""
        seen = self._seen.get((payer, signer))
        if seen is not None and time.monotonic() - seen.at < self._fresh_seconds:
            return seen.standing
        reading = self._reading.get((payer, signer))
        if reading is None:
            reading = self._reading[(payer, signer)] = asyncio.create_task(self._read(payer, signer))
            reading.add_done_callback(partial(self._note, (payer, signer)))
        try:
            # Whoever else asks meanwhile waits for the same answer, also where the first one leaves.
            return await asyncio.shield(reading)
        except ChainUnreachable:
            if seen is None or time.monotonic() - seen.at > STALE_SECONDS:
                raise
            return seen.standing

    def _note(self, who: tuple[Address, Address], reading: asyncio.Task[Standing]) -> None:
        del self._reading[who]
        if reading.cancelled() or reading.exception() is not None:
            return
        self._seen.pop(who, None)
        self._seen[who] = _Seen(reading.result(), time.monotonic())
        if len(self._seen) > MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    async def _read(self, payer: Address, signer: Address) -> Standing:
        account, session, own, shared = await asyncio.gather(
            self._escrow.account(payer),
            self._escrow.signer(payer, signer),
            self._escrow.reservation(payer, signer, self._node),
            self._escrow.reservation(payer, ZERO_ADDRESS, self._node),
        )
        # What its payer releases may leave any moment, whatever was added to it since.
        own_safe, shared_safe = (item.remaining if item.release_end == 0 else 0 for item in (own, shared))
        reserved = own_safe + shared_safe
        if payer == signer:
            return Standing(account.balance, account.thawing, reserved, None, None)
        # What this signer reserved for us already counts as used, and is ours to collect all the same.
        left = max(0, session.cap - session.used) + own_safe
        return Standing(account.balance, account.thawing, reserved, left, session.expiry)
