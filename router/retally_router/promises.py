"""What promises take of what jobs hold: on their way, on record, refused, or not heard of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from retally.protocol.voucher import ChannelId
from retally_router.leases import Lease, Leases, Part


@dataclass(frozen=True, slots=True)
class Share:
    """What a promise takes of one job's part."""

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
    """What one promise takes."""

    shares: list[Share] = field(default_factory=list)
    #: By job, of what is not counted here: a dead router's jobs hold what they hold.
    strange: dict[str, int] = field(default_factory=dict)

    def holds(self) -> Iterator[tuple[str, int, int]]:
        """Each hold with what is taken of it and what it has to have."""
        of: dict[str, int] = {}
        for share in self.shares:
            of[share.hold] = of.get(share.hold, 0) + share.amount
        yield from ((hold, amount, amount) for hold, amount in of.items())
        yield from ((job, amount, 0) for job, amount in self.strange.items())

    def uncovered(self, hold: str) -> list[Share]:
        """The shares that were to be taken from that hold."""
        return [share for share in self.shares if share.hold == hold and share.amount]


class Promises:
    """The shares of a process's promises."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._unheard: dict[ChannelId, list[tuple[int, Taken]]] = {}

    def parts(self, jobs: Mapping[str, int]) -> list[Part]:
        """What these jobs hold, of those that are counted here."""
        return [part for part in map(self._leases.part_of, jobs) if part is not None]

    def unheard_of(self, part: Part) -> list[ChannelId]:
        """The channels on which it is not known whether a promise took of it."""
        return [
            channel
            for channel, each in self._unheard.items()
            if any(share.part is part for _, taken in each for share in taken.shares)
        ]

    def take(self, jobs: Mapping[str, int]) -> Taken:
        """What a promise for these jobs takes; what they hold shrinks by as much, at once."""
        taken = Taken()
        for job, most in jobs.items():
            part = self._leases.part_of(job)
            if part is None:
                taken.strange[job] = most
                continue
            share = Share(part, part.lease, min(most, part.left), part.renewals)
            part.left -= share.amount
            part.flying += share.amount
            if part.lease is not None:
                part.lease.taken -= share.amount
                part.lease.flying += share.amount
            taken.shares.append(share)
        return taken

    def record(self, channel: ChannelId, taken: Taken) -> None:
        """The promise is on record; so is, in its total, whatever was not heard of before."""
        self._unheard.pop(channel, None)
        for share in taken.shares:
            _land(share)

    def put_back(self, taken: Taken) -> None:
        """The store took nothing of it."""
        for share in taken.shares:
            _land(share)
            part = share.part
            if not part.is_over:
                part.left += share.amount
                if part.lease is not None:
                    part.lease.taken += share.amount
            elif share.lease is not None:
                self._leases.give(part, share.lease, share.amount)

    def doubt(self, channel: ChannelId, total: int, taken: Taken) -> None:
        """Whether it was heard is unknown: what it takes counts as held until that shows."""
        for share in taken.shares:
            share.part.is_unheard = True
            if share.lease is not None:
                self._leases.retire(share.lease)
        self.put_back(taken)
        self._unheard.setdefault(channel, []).append((total, taken))

    def heard(self, channel: ChannelId, total: int) -> dict[str, int]:
        """What by a channel's total in the store was taken without an answer, by job: that is not held any more.

        Of several the highest says it all; where a lower one took other shares, too much counts as held.
        """
        unheard = self._unheard.get(channel, [])
        found = [each for each in unheard if each[0] <= total]
        if not found:
            return {}
        del self._unheard[channel]
        shares = max(found, key=lambda each: each[0])[1].shares
        for share in shares:
            part = share.part
            gone = min(share.amount, part.left)
            if not part.is_over:
                part.left -= gone
                if part.lease is not None:
                    part.lease.taken -= gone
        return {share.part.want.job: share.amount for share in shares}


def _land(share: Share) -> None:
    share.part.flying -= share.amount
    if share.lease is not None:
        share.lease.flying -= share.amount
    if not share.part.flying and share.part.landed is not None:
        share.part.landed.set()
