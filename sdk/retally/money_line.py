"""One channel seen by its signer: what is promised, what receipts closed, what open segments owe (R-20, R-21)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retally.errors import InvalidReceipt
from retally.protocol.receipt import JobReceipt


@dataclass
class OpenSegment:
    """A segment without its receipt yet: what it owes by our count, the most that is paid, the most that was signed."""

    owed: int
    most: int
    deadline: int
    agreed: int


@dataclass
class MoneyLine:
    """The growing number of one channel, by the signer's own count."""

    promised: int = 0
    closed: int = 0
    detached: dict[int, int] = field(default_factory=dict)
    open: dict[str, OpenSegment] = field(default_factory=dict)
    #: What receipts billed that were refused: it explains gaps in the line, and is never paid.
    refused: int = 0

    @property
    def needed(self) -> int:
        """The cumulative amount that honest receipts and open segments add up to."""
        apart = sum(end - start for start, end in self.detached.items())
        return self.closed + apart + sum(segment.owed for segment in self.open.values())

    @property
    def surplus(self) -> int:
        """What is promised beyond what is needed: it prepays the next job."""
        return max(0, self.promised - self.needed)

    @property
    def at_most(self) -> int:
        """The cumulative amount beyond which nothing agreed so far can go."""
        apart = sum(end - start for start, end in self.detached.items())
        return self.closed + apart + sum(segment.most for segment in self.open.values())

    def begin(self, segment: str, *, owed: int, most: int, deadline: int) -> None:
        """Opens a segment with its prepaid input."""
        self.open[segment] = OpenSegment(owed, most, deadline, most)

    def owe(self, segment: str, owed: int) -> None:
        """Raises what an open segment owes; it never shrinks while open."""
        entry = self.open.get(segment)
        if entry is not None:
            entry.owed = max(entry.owed, min(owed, entry.most))

    def cap(self, segment: str, most: int) -> None:
        """Lowers what an open segment may bill to be paid; never below what it owes."""
        entry = self.open.get(segment)
        if entry is not None:
            entry.most = max(entry.owed, min(entry.most, most))

    def lose(self, segment: str) -> None:
        """Owes nothing for a segment of which nothing is known; its receipt may come all the same."""
        entry = self.open.get(segment)
        if entry is not None:
            entry.owed = 0

    def refuse(self, segment: str) -> None:
        """Closes a segment that is not paid, with a receipt or without; later receipts go on behind it."""
        entry = self.open.pop(segment, None)
        if entry is not None:
            self.refused += entry.agreed

    def catch_up(self, promised: int, closed: int, job: str) -> None:
        """Takes over what the signer promised in a life that this record has lost; only `job` is owed beyond it."""
        self.promised = max(self.promised, promised)
        self.closed, self.detached = max(self.closed, min(closed, promised)), {}
        for segment, entry in self.open.items():
            if not segment.startswith(job):
                entry.owed = 0

    def close(self, segment: str, receipt: JobReceipt) -> None:
        """Closes a segment with its receipt, which must fit into the line."""
        entry = self.open.get(segment)
        if entry is None:
            return
        if receipt.fee > entry.most:
            raise InvalidReceipt("fee above the most agreed", entry.most, receipt.fee)
        if receipt.fee > 0:
            self._check_fits(segment, receipt)
            self._attach(receipt.cum_from, receipt.cum_to)
        del self.open[segment]

    def abandon(self, segment: str) -> None:
        """Forgets a segment that was never served; what was promised for it prepays the next receipt."""
        self.open.pop(segment, None)

    def _attach(self, start: int, end: int) -> None:
        # Behind a gap that never fills the line would otherwise grow by a range a job.
        end = self.detached.pop(end, end)
        start = next((before for before, reached in self.detached.items() if reached == start), start)
        self.detached[start] = end
        self.closed = self.detached.pop(self.closed, self.closed)

    def _check_fits(self, segment: str, receipt: JobReceipt) -> None:
        if receipt.cum_from < self.closed:
            raise InvalidReceipt("R-20: cumFrom lies before the last receipt's cumTo", self.closed, receipt.cum_from)
        below = 0
        for start, end in self.detached.items():
            if receipt.cum_from < end and start < receipt.cum_to:
                raise InvalidReceipt("R-20: receipts overlap", f"[{start}, {end})", receipt.cum_from)
            below += end - start if end <= receipt.cum_from else 0
        others = sum(entry.agreed for name, entry in self.open.items() if name != segment)
        if receipt.cum_from - self.closed - below > others + self.refused:
            raise InvalidReceipt("R-20: a gap that no open segment explains", self.closed + below, receipt.cum_from)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; amounts as strings."""
        return {
            "promised": str(self.promised),
            "closed": str(self.closed),
            "detached": {str(start): str(end) for start, end in self.detached.items()},
            "open": {
                name: {
                    "owed": str(entry.owed),
                    "most": str(entry.most),
                    "deadline": entry.deadline,
                    "agreed": str(entry.agreed),
                }
                for name, entry in self.open.items()
            },
            "refused": str(self.refused),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> MoneyLine:
        """The line that `to_json` wrote."""
        return cls(
            promised=int(state["promised"]),
            closed=int(state["closed"]),
            detached={int(start): int(end) for start, end in state["detached"].items()},
            open={
                name: OpenSegment(
                    int(entry["owed"]),
                    int(entry["most"]),
                    int(entry["deadline"]),
                    int(entry.get("agreed", entry["most"])),
                )
                for name, entry in state["open"].items()
            },
            refused=int(state.get("refused", 0)),
        )
