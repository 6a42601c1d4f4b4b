"""What promises take of what jobs hold: on their way, on record, refused, or not heard of."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from retally.errors import RetallyError
from retally.protocol.voucher import ChannelId
from retally_router.earmarks import Ask, Mark, Marks
from retally_router.leases import Lease, Leases, Part
from retally_router.patience import Patience
from retally_router.refusals import OWN

UNMARKED = Mark(0)


@dataclass(frozen=True, slots=True)
class Share:
    """What a promise may take of one job's part."""

    ask: Ask
    part: Part
    #: What covered the part then.
    lease: Lease | None
    amount: int
    renewals: int

    @property
    def hold(self) -> str:
        """The hold in the store that it is taken from."""
        return self.part.want.job if self.lease is None else self.lease.name


@dataclass(frozen=True, slots=True)
class Taken:
    """What one promise may take; of a job that is not counted here, say a dead router's, that is what it holds."""

    asks: Sequence[Ask]
    shares: list[Share] = field(default_factory=list)

    @property
    def holds(self) -> dict[str, str]:
        """By job, what it is taken from."""
        return {share.ask.job: share.hold for share in self.shares}

    def uncovered(self, hold: str) -> list[Share]:
        """The shares that were to be taken from that hold."""
        return [share for share in self.shares if share.hold == hold and share.amount]


@dataclass(slots=True)
class Wanted:
    """What is to be promised of which jobs' parts: less, once it shows that one of them has too little."""

    asks: Sequence[Ask]
    parts: Sequence[Part | None]
    #: Why it is less.
    uncovered: RetallyError | None = None
    _short: set[Part] = field(default_factory=set)

    def short(self) -> list[tuple[Part, int]]:
        """Which jobs hold less than may be taken of them, and how much that is."""
        needs: dict[Part, int] = {}
        for ask, part in zip(self.asks, self.parts, strict=True):
            if part is not None:
                needs[part] = needs.get(part, 0) + more_of(ask, part)
        return [(part, more) for part, more in needs.items() if more and not part.has(more)]

    @property
    def patience(self) -> Patience:
        """What a refusal has to stand: after the first one the chain was read a moment ago."""
        return Patience.SOME if self.uncovered is None else Patience.NONE

    def has(self, part: Part) -> bool:
        """Whether anything is wanted of it still."""
        return part in self.parts

    async def unless_short(self, part: Part, work: Coroutine[Any, Any, None], *, is_lost: bool) -> bool:
        """Leaves out what one job has too little for, if that is what its work says; raises where nothing is left.

        Of what others owe, and what it owes as far as it holds so much, the node is paid all the same. What was to be
        ahead of that was for a total that is not reached.
        """
        try:
            await work
        except OWN as error:
            # The second time what is left of it can't be promised either.
            self._leave_out(part, 0 if is_lost or part in self._short else part.left)
            self._short.add(part)
            self.uncovered = error
            if not self.asks:
                raise
            return False
        return True

    def leave_forgotten(self) -> None:
        """Leaves out the jobs that ended meanwhile and owe nothing: what would be for them would be nobody's."""
        kept = [not ask.is_forgotten for ask in self.asks]
        self.asks, self.parts = list(compress(self.asks, kept)), list(compress(self.parts, kept))

    def _leave_out(self, short: Part, left: int) -> None:
        asks, parts = list[Ask](), list[Part | None]()
        for ask, part in zip(self.asks, self.parts, strict=True):
            owed = ask.owed()
            if part is short:
                got = min(more_of(owed, part), left)
                owed, left = ask.owed(more_of(owed, part) - got), left - got
            # Also where it is on record already: whoever asks has not heard of it.
            if owed.total > owed.known:
                asks.append(owed)
                parts.append(part)
        self.asks, self.parts = asks, parts


class Promises:
    """The shares of a process's promises."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def take(self, wanted: Wanted) -> Taken:
        """What a promise may take; what its jobs hold shrinks by as much, at once."""
        taken = Taken(wanted.asks)
        for ask, part in zip(wanted.asks, wanted.parts, strict=True):
            if part is None:
                continue
            share = Share(ask, part, part.lease, min(more_of(ask, part), part.left), part.renewals)
            part.left -= share.amount
            part.flying += share.amount
            if part.lease is not None:
                part.lease.taken -= share.amount
                part.lease.flying += share.amount
            taken.shares.append(share)
        return taken

    def record(self, taken: Taken, marks: Marks) -> None:
        """The promise is on record: what it did not take is held still."""
        for share in taken.shares:
            _land(share)
            gone, bare = self._heard(share.part, share.ask.place, marks)
            if marks[share.ask.place] is None:
                # Whoever settled it may have promised it out of nothing that was found.
                bare = share.amount
            self._give_back(share, share.amount - gone - bare)
            self._return(share.lease, bare)

    def refuse(self, taken: Taken, marks: Marks) -> None:
        """The store took nothing, and says what is there."""
        for share in taken.shares:
            _land(share)
            gone, bare = self._heard(share.part, share.ask.place, marks)
            self._give_back(share, share.amount - gone - bare)
            self._return(share.lease, bare)

    def doubt(self, channel: ChannelId, taken: Taken) -> None:
        """Whether it was heard is unknown: what it takes counts as held until that shows."""
        for share in taken.shares:
            share.part.unheard[share.ask.place] = channel
            if share.lease is not None:
                self._leases.retire(share.lease)
        for share in taken.shares:
            _land(share)
            self._give_back(share, share.amount)

    def hear(self, part: Part, place: str, marks: Marks) -> None:
        """What is on record for a job, asked for because a promise had no answer: that is not held any more."""
        gone, bare = self._heard(part, place, marks)
        if part.is_over:
            return
        left = min(part.left, gone + bare)
        part.left -= left
        if part.lease is not None:
            part.lease.taken -= left
            self._return(part.lease, min(left, bare))

    def _heard(self, part: Part, place: str, marks: Marks) -> tuple[int, int]:
        """How much more of what a part covers was promised than was known: out of what it holds, and out of nothing."""
        part.unheard.pop(place, None)
        mark, before = marks[place], part.earmarks.pop(place, UNMARKED)
        if mark is None:
            return 0, 0
        part.earmarks[place] = mark
        return max(0, mark.held - before.held), max(0, mark.bare - before.bare)

    def _return(self, lease: Lease | None, bare: int) -> None:
        """What another promised without this process's lease is in both: it goes back, to be nobody's part."""
        if lease is not None:
            lease.back += bare

    def _give_back(self, share: Share, amount: int) -> None:
        part = share.part
        if part.is_over:
            if share.lease is not None and amount > 0:
                self._leases.give(part, share.lease, amount)
            return
        amount = max(amount, -part.left)
        part.left += amount
        if part.lease is not None:
            part.lease.taken += amount


def more_of(ask: Ask, part: Part) -> int:
    """What is asked for beyond what is known to be for it."""
    return max(0, ask.total - part.earmarks.get(ask.place, UNMARKED).promised)


def _land(share: Share) -> None:
    share.part.flying -= share.amount
    if share.lease is not None:
        share.lease.flying -= share.amount
    if not share.part.flying and share.part.landed is not None:
        share.part.landed.set()
