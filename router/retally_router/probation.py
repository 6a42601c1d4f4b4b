"""Nodes that have to prove themselves: a small share of the jobs, few at once, and a cap on what may be lost."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from retally_router.observed import Observed

#: So many finished jobs make a node known; before, it may have two more at once for each that it finished.
KNOWN_AFTER = 8
FIRST_AT_ONCE = 4
#: A node not seen for so long may have changed.
UNSEEN_SECONDS = 300.0


def is_known(seen: Observed) -> bool:
    """Whether the node has finished enough jobs from here."""
    return seen.finished >= KNOWN_AFTER


def has_slow_start_room(seen: Observed) -> bool:
    """Whether a node may get one more job at once: a new one proves itself on few."""
    return is_known(seen) or seen.in_flight < FIRST_AT_ONCE + 2 * seen.finished


def wants_trial(seen: Observed, now: float, *, calibrated: bool) -> bool:
    """Whether a job now and then should go there although others look better."""
    return not calibrated or not is_known(seen) or now - seen.last_seen > UNSEEN_SECONDS


@dataclass(frozen=True, slots=True)
class Trials:
    """Draws the jobs that go to a node on probation."""

    share: float
    #: The most that may be out at such a node together with what failed there within a day.
    loss_cap: int
    random: Random

    def is_due(self) -> bool:
        """Whether this job is one of the small share."""
        return self.random.random() < self.share

    def has_room(self, seen: Observed, price: int, now: float) -> bool:
        """Whether losing one more job of that price would stay below the cap."""
        return seen.at_risk + seen.lost_lately(now) + price <= self.loss_cap
