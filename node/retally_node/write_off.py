"""Writes off what was not paid for in time, so that those who pay find credit left."""

from __future__ import annotations

import logging

from retally_node.channels import Channel, ChannelBook
from retally_node.leaving import is_late
from retally_node.ledger import Ledger
from retally_node.ports import Clock

log = logging.getLogger(__name__)

PAUSE_SECONDS = 3600


class WriteOff:
    """A loop over channels whose signer left something unpaid."""

    def __init__(self, ledger: Ledger, book: ChannelBook, clock: Clock) -> None:
        self._ledger = ledger
        self._book = book
        self._clock = clock
        self._looked_at: int | None = None

    async def step(self) -> None:
        """Once an hour of chain time: what may be committed no more (R-54) is expected no more."""
        now = self._clock.now()
        if self._looked_at is not None and now - self._looked_at < PAUSE_SECONDS:
            return
        self._looked_at = now
        for channel in self._book.all():
            lost = self._lost(channel, now) if channel.last_cum > channel.collected else 0
            if lost > channel.lost:
                log.warning("channel %s: %d were not paid for in time, and are lost", channel.id.key.hex(), lost)
            channel.lost = lost

    def _lost(self, channel: Channel, now: int) -> int:
        """What late receipts at the end of the line bill; those with others in time behind them may be collected."""
        start = channel.last_cum
        for record in reversed(self._ledger.jobs.billed_after(channel.id.key, channel.collected)):
            if not is_late(record.receipt, self._ledger, now):
                break
            start = max(record.receipt.cum_from, channel.collected)
        return channel.last_cum - start
