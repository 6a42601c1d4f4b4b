"""What promises take of what jobs hold: on their way, on record, refused, or not heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from retally.protocol.voucher import ChannelId
from retally_router.earmarks import Ask, Mark, Marks
from retally_router.leases import Lease, Leases, Part

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


class Promises:
    """The shares of a process's promises."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def short(self, asks: Sequence[Ask], parts: Sequence[Part | None]) -> list[tuple[Part, int]]:
        """Which jobs hold less than may be taken of them, and how much that is."""
        needs: dict[Part, int] = {}
        for ask, part in zip(asks, parts, strict=True):
            if part is not None:
                needs[part] = needs.get(part, 0) + more_of(ask, part)
        return [(part, more) for part, more in needs.items() if more and not part.has(more)]

    def take(self, asks: Sequence[Ask], parts: Sequence[Part | None]) -> Taken:
        """What a promise for these jobs may take; what they hold shrinks by as much, at once."""
        taken = Taken(asks)
        for ask, part in zip(asks, parts, strict=True):
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
