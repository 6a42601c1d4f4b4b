"""What of a channel's total is for which job: written down with the total, and forgotten with the job (decision 29)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from retally.errors import RetallyError
from retally_router.open_segments import OpenSegment, OpenSegments, SegmentKey


@dataclass(frozen=True, slots=True)
class Ask:
    """So much of a channel's total is to be for a job at its node, all in all: asked for twice, it is done once."""

    #: The job's place among its payer's open jobs.
    place: str
    job: str
    total: int
    #: What of that it does not owe: it is only for the channel's total.
    ahead: int = 0
    #: Whether this router began it: then a store without its record lost that, or has not got it yet.
    is_own: bool = False
    #: What is for it as far as was heard: a store that lost its last writes has less.
    known: int = 0
    #: The job's as its channel's account counts it, if it does.
    mark: Earmark | None = field(default=None, compare=False, repr=False)

    @property
    def is_forgotten(self) -> bool:
        """Whether its channel's account counts it no more."""
        return self.mark is not None and self.mark.is_dropped

    def owed(self, cut: int = 0) -> Ask:
        """What it owes of that, less what nobody has for it."""
        return replace(self, total=self.total - self.ahead - cut, ahead=0)


@dataclass(frozen=True, slots=True)
class Count:
    """A channel as its router counts it: its total, and what of that receipts bill or is for open jobs."""

    total: int = 0
    used: int = 0
    #: The total that it wants to be enough.
    wanted: int = 0


class Mark(NamedTuple):
    """What is on record for a job."""

    promised: int
    #: How much of that came out of a hold, and how much out of none.
    held: int = 0
    bare: int = 0
    #: What receipts on record cost.
    billed: int = 0


def mark_of(there: bytes) -> Mark:
    """What is on record for a job, as it stands there."""
    return Mark(*map(int, there.split(b"|")))


Marks = Mapping[str, Mark | None]


@dataclass(frozen=True, slots=True)
class Promised:
    """What is on record after a promise."""

    total: int
    before: int
    #: By place; None where that job is open nowhere any more.
    earmarks: Marks = field(default_factory=dict)
    #: Why less was promised than was asked for.
    uncovered: RetallyError | None = None


@dataclass(frozen=True, slots=True)
class Lacking:
    """Nothing was promised: a hold has too little for it."""

    hold: str
    earmarks: Marks


@dataclass(slots=True)
class Earmark:
    """One job's, as its channel's account counts it."""

    place: str
    job: bytes
    is_own: bool = False
    #: What is for it on record, as far as was heard; raised by Earmarks.hear alone.
    known: int = 0
    #: What its closed segments cost; raised by Earmarks.bill alone.
    fees: int = 0
    #: Whether it was open nowhere when more was to be for it: what it bills is settled, unless its receipt is new.
    is_gone: bool = False
    #: Whether a receipt of it came on record since the last segment was closed.
    is_recorded: bool = False
    #: Whether it is over, and not among its channel's any more.
    is_dropped: bool = False
    open: set[SegmentKey] = field(default_factory=set)

    def chargeable(self, open_: OpenSegments) -> Iterator[OpenSegment]:
        """Its segments that may cost something still."""
        return (segment for segment in map(open_.__getitem__, self.open) if not segment.is_charged)

    @property
    def owes(self) -> int:
        """What closed segments cost beyond what is for it."""
        return 0 if self.is_gone else max(0, self.fees - self.known)

    @property
    def ask(self) -> Ask:
        """All that they cost."""
        return self.of(self.fees)

    def of(self, total: int) -> Ask:
        """So much."""
        return Ask(self.place, self.job.hex(), total, max(0, total - self.fees), self.is_own, self.known, self)

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more that has to be promised."""
        is_settled = not self.is_gone or self.is_recorded or not self.fees
        return is_settled and not self.open and not self.owes


class Earmarks(dict[str, Earmark]):
    """Those of a channel's jobs by place, with the running sum of what is for them beyond what they billed."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        #: For which there may be less than is due soon.
        self._behind: dict[str, Earmark] = {}

    def of(self, place: str, job: bytes, *, is_own: bool) -> Earmark:
        """That job's; a new one where none is there."""
        mark = self.get(place)
        if mark is None:
            mark = self[place] = Earmark(place, job, is_own)
        return mark

    def hear(self, mark: Earmark, known: int) -> bool:
        """So much is for a job, by what is on record; whether it is more than was known."""
        more = known - mark.known
        if more > 0:
            mark.known, self.kept = known, self.kept + more
        return more > 0

    def forget(self, mark: Earmark) -> None:
        """Nothing is for a job any more."""
        self.kept, mark.known = self.kept - mark.known, 0

    def bill(self, mark: Earmark, fee: int) -> None:
        """One more of its segments is closed."""
        mark.fees, mark.is_recorded = mark.fees + fee, False
        self.kept -= fee
        self._behind[mark.place] = mark

    def drop(self, mark: Earmark) -> None:
        """It owes nothing, and nothing of it is open."""
        self._behind.pop(mark.place, None)
        if self.pop(mark.place, None) is not None:
            mark.is_dropped = True
            self.kept -= mark.known - mark.fees

    def behind(self, open_: OpenSegments) -> Iterator[tuple[Earmark, int]]:
        """For which there is less than is due soon, and how much that is: with a thousand open most have enough."""
        for key in open_.grown:
            if key in open_ and (mark := self.get(open_[key].place)) is not None:
                self._behind[mark.place] = mark
        open_.grown.clear()
        for mark in list(self._behind.values()):
            due = mark.fees + sum(each.upper + each.slack for each in mark.chargeable(open_))
            if mark.is_gone or due <= mark.known:
                del self._behind[mark.place]
            else:
                yield mark, due


def asks_of(owing: Iterable[Earmark], earmarks: Earmarks, open_: OpenSegments, missing: int, beyond: int) -> list[Ask]:
    """For which jobs more of a channel's total has to be, so that it grows by what is missing.

    First what ended segments owe, in any case, then what may be due soon; only for what a node says to be due beyond
    all that, what may be due at all. It is less than was asked for where no job holds that much.
    """
    asks = dict[str, Ask]()
    for mark in owing:
        asks[mark.place], missing = mark.ask, missing - mark.owes

    def add(mark: Earmark, due: int) -> None:
        nonlocal missing
        had = max(mark.known, asks[mark.place].total if mark.place in asks else 0)
        if (more := min(missing, due - had)) > 0:
            asks[mark.place], missing = mark.of(had + more), missing - more

    for mark, due in earmarks.behind(open_) if missing > 0 else ():
        add(mark, due)
        if missing <= 0:
            return list(asks.values())
    missing = min(missing, beyond)
    for mark in earmarks.values() if missing > 0 else ():
        if not mark.is_gone:
            add(mark, mark.fees + sum(each.limit for each in mark.chargeable(open_)))
    return list(asks.values())
