"""What the router saw of each node: times, failures, jobs in flight; a breaker for those that fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

WEIGHT = 0.2
FIRST_TTFT_SECONDS = 0.3
FIRST_TPOT_SECONDS = 0.03


@dataclass(slots=True)
class Observed:
    """One node as seen from here."""

    ttft_seconds: float = FIRST_TTFT_SECONDS
    tpot_seconds: float = FIRST_TPOT_SECONDS
    p_ok: float = 0.98
    in_flight: int = 0
    failures: int = 0
    closed_until: float = 0.0
    cheated: str | None = None


@dataclass(slots=True)
class Watch:
    """All nodes as seen from here."""

    breaker_failures: int
    breaker_seconds: float
    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, Observed] = field(default_factory=dict)

    def of(self, node: str) -> Observed:
        """What was seen of a node."""
        return self._nodes.setdefault(node, Observed())

    def began(self, node: str) -> None:
        """A job went there; counts before the node's next report of its load."""
        self.of(node).in_flight += 1

    def ended(self, node: str) -> None:
        """The job left the node, however it ended."""
        self.of(node).in_flight -= 1

    def first_token(self, node: str, seconds: float) -> None:
        """Learns from the time to the first token."""
        seen = self.of(node)
        seen.ttft_seconds += WEIGHT * (seconds - seen.ttft_seconds)

    def succeeded(self, node: str, output_tokens: int, seconds: float) -> None:
        """Learns from a whole answer with receipts that hold."""
        seen = self.of(node)
        seen.failures = 0
        seen.p_ok += WEIGHT / 4 * (1.0 - seen.p_ok)
        if output_tokens > 1:
            seen.tpot_seconds += WEIGHT * (seconds / (output_tokens - 1) - seen.tpot_seconds)

    def failed(self, node: str) -> None:
        """Learns from a failure; enough in a row open the breaker for a while."""
        seen = self.of(node)
        seen.p_ok -= WEIGHT * seen.p_ok
        seen.failures += 1
        if seen.failures >= self.breaker_failures:
            seen.closed_until = self.clock() + self.breaker_seconds

    def cheated(self, node: str, what: str) -> None:
        """Shuts a node out: what it signed contradicts what it delivered."""
        self.of(node).cheated = what

    def is_open(self, node: str) -> bool:
        """Whether the node may get work."""
        seen = self.of(node)
        return seen.cheated is None and seen.closed_until <= self.clock()
