"""One channel seen by its signer: what is promised, what receipts closed, what open segments owe (R-20, R-21)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retally.errors import InvalidReceipt
from retally.protocol.receipt import JobReceipt


@dataclass
class OpenSegment:
    """A segment without its receipt yet: what it owes by our count, and the most that it may bill."""

    owed: int
    most: int
    deadline: int


@dataclass
class MoneyLine:
    """The growing number of one channel, by the signer's own count."""

    promised: int = 0
    closed: int = 0
    detached: dict[int, int] = field(default_factory=dict)
    open: dict[str, OpenSegment] = field(default_factory=dict)

    @property
    def needed(self) -> int:
        """The cumulative amount that honest receipts and open segments add up to."""
        apart = sum(end - start for start, end in self.detached.items())
        return self.closed + apart + sum(segment.owed for segment in self.open.values())

    @property
    def at_most(self) -> int:
        """The cumulative amount beyond which nothing agreed so far can go."""
        apart = sum(end - start for start, end in self.detached.items())
        return self.closed + apart + sum(segment.most for segment in self.open.values())

    def begin(self, segment: str, *, owed: int, most: int, deadline: int) -> None:
        """Opens a segment with its prepaid input."""
        self.open[segment] = OpenSegment(owed, most, deadline)

    def owe(self, segment: str, owed: int) -> None:
        """Raises what an open segment owes; it never shrinks while open."""
        entry = self.open.get(segment)
        if entry is not None:
            entry.owed = max(entry.owed, min(owed, entry.most))

    def close(self, segment: str, receipt: JobReceipt) -> None:
        """Closes a segment with its receipt, which must fit into the line."""
        entry = self.open.get(segment)
        if entry is None:
            return
        if receipt.fee > entry.most:
            raise InvalidReceipt("fee above the most agreed", entry.most, receipt.fee)
        if receipt.fee > 0:
            self._check_fits(segment, receipt)
            self.detached[receipt.cum_from] = receipt.cum_to
            while self.closed in self.detached:
                self.closed = self.detached.pop(self.closed)
        del self.open[segment]

    def abandon(self, segment: str) -> None:
        """Forgets a segment that was never served; what was promised for it prepays the next receipt."""
        self.open.pop(segment, None)

    def _check_fits(self, segment: str, receipt: JobReceipt) -> None:
        if receipt.cum_from < self.closed:
            raise InvalidReceipt("R-20: cumFrom lies before the last receipt's cumTo", self.closed, receipt.cum_from)
        below = 0
        for start, end in self.detached.items():
            if receipt.cum_from < end and start < receipt.cum_to:
                raise InvalidReceipt("R-20: receipts overlap", f"[{start}, {end})", receipt.cum_from)
            below += end - start if end <= receipt.cum_from else 0
        others = sum(entry.most for name, entry in self.open.items() if name != segment)
        if receipt.cum_from - self.closed - below > others:
            raise InvalidReceipt("R-20: a gap that no open segment explains", self.closed + below, receipt.cum_from)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; amounts as strings."""
        return {
            "promised": str(self.promised),
            "closed": str(self.closed),
            "detached": {str(start): str(end) for start, end in self.detached.items()},
            "open": {
                name: {"owed": str(entry.owed), "most": str(entry.most), "deadline": entry.deadline}
                for name, entry in self.open.items()
            },
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> MoneyLine:
        """The line that `to_json` wrote."""
        return cls(
            promised=int(state["promised"]),
            closed=int(state["closed"]),
            detached={int(start): int(end) for start, end in state["detached"].items()},
            open={
                name: OpenSegment(int(entry["owed"]), int(entry["most"]), int(entry["deadline"]))
                for name, entry in state["open"].items()
            },
        )
