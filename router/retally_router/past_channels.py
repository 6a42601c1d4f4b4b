"""Channels that an earlier life of a lane left open: what it promised for which of their jobs is not known any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Past:
    """One channel's jobs of then; what each of them holds covers all until the last is settled."""

    unsettled: set[str] = field(default_factory=set)
    is_settled: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, name: str) -> None:
        """One less is open."""
        self.unsettled.discard(name)
        if not self.unsettled:
            self.is_settled.set()


class Pasts:
    """Those channels, by signer, node and lane."""

    def __init__(self) -> None:
        self._pasts: dict[tuple[str, str, int], Past] = {}

    def begin(self, channel: tuple[str, str, int], name: str) -> Past:
        """One more of that channel is to be settled."""
        self._pasts = {key: past for key, past in self._pasts.items() if past.unsettled}
        past = self._pasts.setdefault(channel, Past())
        past.unsettled.add(name)
        return past
