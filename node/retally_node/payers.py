"""Payers as the Escrow sees them, asked at most every few seconds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from retally.chain.escrow import Escrow
from retally.errors import ChainUnreachable
from retally.protocol.encoding import ZERO_ADDRESS, Address
from retally_node.ports import Standing

STALE_SECONDS = 60.0


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
        self._seen: dict[tuple[Address, Address], _Seen] = {}

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """How a payer and its signer stand now."""
        seen = self._seen.get((payer, signer))
        if seen is not None and time.monotonic() - seen.at < self._fresh_seconds:
            return seen.standing
        try:
            standing = await self._read(payer, signer)
        except ChainUnreachable:
            if seen is None or time.monotonic() - seen.at > STALE_SECONDS:
                raise
            return seen.standing
        self._seen[(payer, signer)] = _Seen(standing, time.monotonic())
        return standing

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
