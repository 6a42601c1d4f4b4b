"""How long a cheat lasts: commits day by day, each audited by one verifier, until one of them can go to court."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from economics_evidence import JobLogEs
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Address
from retally.protocol.evidence import OWNER_MISMATCH, JobEvidence, owner_verdict, owner_wealth_log
from retally.protocol.evidence_file import EPOCH_SECONDS, MAX_POINTS, period_start

DAY = 86_400
EPOCH_DAYS = EPOCH_SECONDS // DAY


@dataclass(frozen=True, slots=True)
class Course:
    """A cheat's course: drawn points a day while new and after, and how often a drawn job is a cheated one."""

    new_points: float
    points: float
    new_days: int
    #: What a whole window's money adds to the first day: an owner may have saved it up.
    burst_days: float
    #: Days of honest work before, at the later rate: their points are drawn and not shown.
    honest_days: int
    rate: float
    #: None where one audited job proves the cheat.
    log_es: JobLogEs | None
    payers: int
    verifiers: int
    corrupt: float
    horizon_days: int
    audited: bool = True


Item = tuple[float, int]
"""What one job says: log e, payer."""


@dataclass(slots=True)
class File:
    """The strongest that one verifier found of an owner in this epoch and the one before: all a case may show."""

    epoch: int = 0
    this: list[Item] = field(default_factory=list)
    last: list[Item] = field(default_factory=list)
    fresh: bool = False

    def add(self, epoch: int, items: Sequence[Item]) -> None:
        """Book what one commit showed."""
        if epoch != self.epoch:
            self.last = self.this if epoch == self.epoch + 1 else []
            self.this, self.epoch = [], epoch
            self.fresh = True
        merged = _strongest([*self.this, *items])
        self.fresh = self.fresh or merged != self.this
        self.this = merged

    def wealth(self, drawn: int) -> float:
        """log wealth of the case that this verifier could open, by R-36; zero where it has not become better."""
        if not self.fresh:
            # The same receipts among more drawn points are worth less than they were.
            return 0.0
        self.fresh = False
        shown = _strongest([*self.this, *self.last])
        if sum(log_e for log_e, _ in shown) < OWNER_MISMATCH:
            # No bet gains more than the whole e, so this can't suffice.
            return 0.0
        return wealth_of([log_e for log_e, _ in shown], [payer for _, payer in shown], drawn - len(shown))


@dataclass(frozen=True, slots=True)
class Convicted:
    """The day of the commit that sufficed, and how many audited jobs were cheated ones until then."""

    day: int
    hits: int
    audits: int


def wealth_of(log_es: Sequence[float], payers: Sequence[int], undisclosed: int) -> float:
    """log wealth of a case, by the protocol's own function."""
    jobs = [JobEvidence(Address(f"payer {payer}"), log_e) for log_e, payer in zip(log_es, payers, strict=True)]
    return owner_wealth_log(jobs, max(0, undisclosed))


def convicts(log_wealth: float) -> bool:
    """Whether jurors would vote mismatch."""
    return owner_verdict(log_wealth) == VerdictKind.MISMATCH


def can_convict(course: Course) -> bool:
    """Whether any number of audits could."""
    if not course.audited or course.rate == 0 or course.corrupt >= 1:
        return False
    return course.log_es is None or bool((course.log_es.values[course.log_es.shares > 0] > 0).any())


def run(course: Course, rng: np.random.Generator) -> Convicted | None:
    """One life; None if nothing convicts it within the horizon."""
    if not can_convict(course):
        return None
    # Epochs are fixed to the calendar; the cheat may begin anywhere in one.
    start = 2 * EPOCH_DAYS + int(rng.integers(EPOCH_DAYS))
    files = [File() for _ in range(course.verifiers)]
    drawn_by_day: list[int] = []
    hits = 0
    for day in range(course.horizon_days):
        points = _points(course, day, rng)
        drawn_by_day.append(points)
        cheated = int(rng.binomial(points, course.rate))
        hits += cheated
        if cheated == 0 or rng.random() < course.corrupt:
            continue
        if course.log_es is None:
            return Convicted(day, hits, sum(drawn_by_day))
        file = files[int(rng.integers(course.verifiers))]
        since = period_start((start + day) * DAY) // DAY - start
        file.add((start + day) // EPOCH_DAYS, _found(course, course.log_es, cheated, rng))
        if convicts(file.wealth(_drawn(course, drawn_by_day, since))):
            return Convicted(day, hits, sum(drawn_by_day))
    return None


def _points(course: Course, day: int, rng: np.random.Generator) -> int:
    rate = course.new_points if day < course.new_days else course.points
    exact = rate * (1 + course.burst_days) if day == 0 else rate
    return int(exact) + int(rng.random() < exact - int(exact))


def _drawn(course: Course, by_day: Sequence[int], since: int) -> int:
    before = min(course.honest_days, max(0, -since)) * course.points
    return int(before) + sum(by_day[max(0, since) :])


def _found(course: Course, log_es: JobLogEs, cheated: int, rng: np.random.Generator) -> list[Item]:
    strongest = [log_e for log_e in log_es.strongest(rng, cheated, MAX_POINTS) if log_e > 0]
    return [
        (log_e, int(payer))
        for log_e, payer in zip(strongest, rng.integers(course.payers, size=MAX_POINTS), strict=False)
    ]


def _strongest(items: Sequence[Item]) -> list[Item]:
    # Stable, so that one as strong as those that are shown already changes nothing.
    return sorted(items, key=lambda item: -item[0])[:MAX_POINTS]
