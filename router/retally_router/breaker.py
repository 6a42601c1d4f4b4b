"""A circuit breaker: opens on failures in a row, lets one probe through after a while, and waits longer each time."""

from __future__ import annotations

from dataclasses import dataclass

MOST_TIMES_LONGER = 32


@dataclass(slots=True)
class Breaker:
    """One node's breaker; times are seconds of any one clock."""

    failures_to_open: int
    open_seconds: float
    failures: int = 0
    openings: int = 0
    open_until: float = 0.0
    probing: bool = False

    def is_open(self, now: float) -> bool:
        """Whether the node may get no work now: it failed of late, or its one probe is still out."""
        return self.openings > 0 and (self.probing or now < self.open_until)

    def began(self, now: float) -> bool:
        """A job goes there; whether it is the probe."""
        if self.openings and not self.probing and now >= self.open_until:
            self.probing = True
            return True
        return False

    def ended(self) -> None:
        """The probe ended without saying anything about the node: the next job is the probe."""
        self.probing = False

    def succeeded(self) -> None:
        """Closes."""
        self.failures, self.openings, self.probing, self.open_until = 0, 0, False, 0.0

    def failed(self, now: float, jitter: float) -> None:
        """Counts; opens when there were enough, or when the probe failed. `jitter` in [0, 1) keeps routers apart."""
        self.failures += 1
        if self.probing or self.failures >= self.failures_to_open:
            longer = min(2**self.openings, MOST_TIMES_LONGER)
            self.open_until = now + self.open_seconds * longer * (1.0 + 0.1 * jitter)
            self.openings += 1
            self.failures, self.probing = 0, False
