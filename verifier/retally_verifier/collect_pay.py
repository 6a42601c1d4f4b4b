"""Pull what the contracts owe this verifier, so that its pay buys its next replays and bonds."""

from __future__ import annotations

import time

from retally.chain.connection import Chain
from retally.chain.credits import withdraw_credits
from retally.chain.transactions import TxSender


class PayCollector:
    """Withdraws credits now and then: each costs gas, so not in every round."""

    def __init__(self, chain: Chain, sender: TxSender, every_seconds: float) -> None:
        self._chain = chain
        self._sender = sender
        self._every_seconds = every_seconds
        self._last = time.monotonic()

    async def step(self) -> None:
        """Once per interval: what the audit pool could not pay before, then every credit."""
        if time.monotonic() - self._last < self._every_seconds:
            return
        self._last = time.monotonic()
        if await self._chain.audits.owed_to(self._sender.address) and await self._chain.escrow.audit_pool():
            await self._sender.send(self._chain.audits.collect_owed())
        await withdraw_credits(self._chain, self._sender)
