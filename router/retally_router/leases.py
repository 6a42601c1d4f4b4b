"""What jobs hold here, as this process counts it: their parts of credit leased in blocks, or holds of their own.

Only memory: `credit.py` asks for holds and blocks, `lease_returns.py` gives back. The store never has less of a lease
than what is free of it and what its jobs still hold, unless it lost writes or another ended the lease: that shows when
a promise finds less than it takes, and then its jobs have to hold for themselves. Whatever is in doubt (a store that
broke off in mid-answer) counts as still held and retires its lease: nothing more is taken of it, what the store has
beyond its jobs' parts goes back, and it ends in the store with its last job.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit_answer import Want
from retally_router.earmarks import Mark

PREFIX = "lease:"
#: A hold expires in the store so long after it was made, a lease's after its last block.
HOLD_SECONDS = 3600
#: Long before that another takes the lease's place.
MOST_AGE_SECONDS = 1800.0
#: So long after its hold expired, by a clock of another host at worst, nothing is left of a lease.
EXPIRED_SECONDS = HOLD_SECONDS + 60.0
#: Nobody asked for so long: what is free goes back.
IDLE_SECONDS = 1.0
#: After an answer that granted no block, the next jobs ask for themselves alone.
PLAIN_SECONDS = 1.0


def is_lease(name: str) -> bool:
    """Whether a hold is a process's and not a job's."""
    return name.startswith(PREFIX)


@dataclass(slots=True, eq=False)
class Part:
    """What one job holds: its part of a lease, or all of a hold of its own."""

    want: Want
    lease: Lease | None
    #: What no promise was made for, and none is on its way.
    left: int
    #: What promises on their way take of it.
    flying: int = 0
    #: How often it had to hold anew, for itself.
    renewals: int = 0
    #: Whether a hold may come of which nobody heard.
    is_in_doubt: bool = False
    #: Whether one was asked for that nobody answered: it may be heard at any time, also after the job's end.
    is_expected: bool = False
    #: By the job's place, what is for it of a channel's total, as far as was heard.
    earmarks: dict[str, Mark] = field(default_factory=dict)
    #: By the same, the channels of promises that nobody answered: it may have less than what is left.
    unheard: dict[str, ChannelId] = field(default_factory=dict)
    #: Whether its job has ended.
    is_over: bool = False
    #: While the store is asked to move what it holds: no promise may be made of it then.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Set once nothing flies, where somebody waits for that.
    landed: asyncio.Event | None = None

    def has(self, amount: int) -> bool:
        """Whether so much may be promised of it now: it is there, and where it is held is known."""
        return self.left >= amount and not (self.is_over or self.is_in_doubt or self.lock.locked())

    async def landing(self) -> None:
        """Waits until no promise on its way takes of it."""
        while self.flying:
            self.landed = asyncio.Event()
            await self.landed.wait()


@dataclass(slots=True, eq=False)
class Lease:
    """One payer's credit for one signer on one lane, leased by this process."""

    name: str
    payer: Address
    signer: Address
    lane: int
    began: float
    used_at: float
    free: int = 0
    #: What the chain had for its signer when a block was granted last, and what was spent of it.
    covered: int = 0
    #: What ended jobs left after the lease was given back; it goes after it.
    back: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    #: What is left of the parts.
    taken: int = 0
    #: What promises on their way take of it.
    flying: int = 0
    #: When a block was granted last.
    granted_at: float = 0.0
    #: Whether the store lists it as one of which something may be free.
    is_open: bool = False
    is_retired: bool = False
    #: Whether the store may have more or less of it than is counted here; then it is retired as well.
    is_in_doubt: bool = False
    plain_until: float = 0.0
    #: One block, or one giving back, at a time.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_to_go(self) -> bool:
        """Whether nothing needs it: it may end in the store."""
        return self.is_retired and not self.parts and not self.flying

    @property
    def counted(self) -> int:
        """What the store has of it at least, or has lost."""
        return self.free + self.back + self.taken

    def is_old(self, now: float) -> bool:
        """Whether another has to take its place."""
        return now - self.began > MOST_AGE_SECONDS

    def is_expired(self, now: float) -> bool:
        """Whether the store forgot its hold: it covers no job any more."""
        return now - max(self.began, self.granted_at) > EXPIRED_SECONDS


class Leases:
    """All that the jobs of a process hold, and its leases."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{secrets.token_hex(6)}:"
        self._numbers = itertools.count()
        self._current: dict[tuple[Address, Address, int], Lease] = {}
        self._all: dict[str, Lease] = {}
        self._parts: dict[str, Part] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._all.values()))

    def owns(self, name: str) -> bool:
        """Whether this process made the lease."""
        return name.startswith(self._prefix)

    def knows(self, name: str) -> bool:
        """Whether it has not ended yet."""
        return name in self._all

    def part_of(self, job: str) -> Part | None:
        """What the job holds; None where that is not known here, say for a dead router's."""
        return self._parts.get(job)

    def current(self, want: Want, now: float) -> Lease:
        """The lease that new jobs take from."""
        key = (want.payer, want.signer, want.lane)
        lease = self._current.get(key)
        if lease is None:
            lease = Lease(f"{self._prefix}{next(self._numbers)}", *key, now, now)
            self._current[key] = self._all[lease.name] = lease
        return lease

    def take(self, lease: Lease, want: Want, now: float) -> bool:
        """The job's amount out of what is free, if that is enough."""
        if lease.is_old(now):
            self.retire(lease)
        if lease.is_retired or lease.free < want.amount or not lease.is_open:
            return False
        lease.free -= want.amount
        lease.taken += want.amount
        lease.parts[want.job] = self._parts[want.job] = Part(want, lease, want.amount)
        lease.used_at = now
        return True

    def add(self, part: Part, amount: int) -> bool:
        """So much more for a job out of what is free of its lease, if that is enough."""
        lease = part.lease
        if part.is_in_doubt or lease is None or lease.is_retired or lease.free < amount or not lease.is_open:
            return False
        lease.free -= amount
        lease.taken += amount
        part.left += amount
        return True

    def note_own(self, want: Want) -> None:
        """The job holds for itself, unless it took of a lease."""
        part = self._parts.get(want.job)
        if part is None or (part.lease is None and part.want.signer != want.signer):
            self._parts[want.job] = Part(want, None, want.amount)
        elif part.lease is None:
            # Asked for again it keeps the larger of the two, as in the store.
            part.left = max(part.left, want.amount)

    def note_block(self, lease: Lease, block: int, covered: int, now: float) -> None:
        """What the store granted, by what the chain had."""
        lease.free += block
        lease.granted_at = now
        lease.covered = max(lease.covered, covered)
        lease.is_open = True

    def end(self, job: str) -> Part | None:
        """A job has ended: what is left of its part of a lease is free; answers what it held."""
        part = self._parts.pop(job, None)
        if part is not None:
            part.is_over = True
            if part.lease is not None:
                self.give(part, part.lease, part.left)
                self._leave(part)
        return part

    def note_alone(self, part: Part, more: int, took: int) -> None:
        """The job holds for itself now, so much more than it did, and took so much with it out of its lease."""
        part.renewals += 1
        if part.lease is not None and (part.lease.is_retired or took < part.left):
            # What the store has beyond its other jobs' parts goes back.
            self.lose(part.lease)
        self._leave(part)
        part.lease = None
        part.left += more

    def abandon(self, lease: Lease) -> None:
        """It covers its jobs no more: before the next promise each has to hold for itself."""
        self.retire(lease)
        for part in list(lease.parts.values()):
            self._leave(part)
            part.lease = None

    def begin_back(self, lease: Lease) -> int:
        """Takes out all that is free, to be given back."""
        amount, lease.free, lease.back, lease.is_open = lease.free + lease.back, 0, 0, False
        return amount

    def lose(self, lease: Lease) -> None:
        """The store has less than what is counted here: nothing is free, and what is left covers jobs at best."""
        self.retire(lease)
        lease.is_in_doubt, lease.is_open, lease.free, lease.back = True, False, 0, 0

    def retire(self, lease: Lease) -> None:
        """Nothing is taken of it any more."""
        lease.is_retired = True
        key = (lease.payer, lease.signer, lease.lane)
        if self._current.get(key) is lease:
            del self._current[key]

    def retire_all(self) -> None:
        """Say because another process may have settled what was ours."""
        for lease in self:
            self.retire(lease)

    def forget(self, lease: Lease) -> None:
        """It ended in the store."""
        self._all.pop(lease.name, None)

    def give(self, part: Part, lease: Lease, amount: int) -> None:
        """An ended job needs so much of what was its part no more."""
        if part.is_in_doubt or part.unheard:
            # It may have taken it with it, or promised it: given back, it would be another job's. What is too much
            # goes once nothing is on its way.
            self.lose(lease)
        elif lease.is_open and not lease.is_retired:
            lease.free += amount
        else:
            lease.back += amount

    def _leave(self, part: Part) -> None:
        if part.lease is not None and part.lease.parts.pop(part.want.job, None) is not None:
            part.lease.taken -= part.left
