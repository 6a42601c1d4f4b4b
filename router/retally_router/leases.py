"""Credit leased in blocks, as this process counts it: what is free of each lease, and which job took how much.

Only memory: `credit.py` asks for blocks, `lease_returns.py` gives back. A lease never covers less in the store than
what is free of it and what its jobs still hold, so whatever is in doubt (a store that broke off in mid-answer) retires
a lease: nothing is taken of it any more, and it ends in the store with its last job. Where the store says that it has
less, because it came back without its last writes or another ended the lease, the lease is lost: its jobs have to hold
for themselves before anything is promised for them.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from retally.protocol.eip712 import Address

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
    parts: dict[str, int] = field(default_factory=dict)
    #: The sum of the parts.
    taken: int = 0
    #: When a block was granted last.
    granted_at: float = 0.0
    #: Whether the store lists it as one of which something may be free.
    is_open: bool = False
    is_retired: bool = False
    #: Whether the store had less than what is counted here.
    is_lost: bool = False
    #: Whether a block may be granted that was not heard of.
    is_in_doubt: bool = False
    plain_until: float = 0.0
    #: One block, or one giving back, at a time.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_to_go(self) -> bool:
        """Whether nothing needs it: it may end in the store."""
        return self.is_retired and not self.parts

    @property
    def counted(self) -> int:
        """What the store has of it at least, or has lost."""
        return self.free + self.back + self.taken

    def is_old(self, now: float) -> bool:
        """Whether another has to take its place."""
        return now - self.began > MOST_AGE_SECONDS

    def is_expired(self, now: float) -> bool:
        """Whether the store forgot its hold: no job that still runs is covered by it."""
        return now - max(self.began, self.granted_at) > EXPIRED_SECONDS


@dataclass(frozen=True, slots=True)
class Taken:
    """What a promise takes: by hold, and of which leased job's part."""

    shares: dict[str, int] = field(default_factory=dict)
    parts: list[tuple[Lease, str, int]] = field(default_factory=list)
    #: What each lease has to have before.
    needed: dict[str, int] = field(default_factory=dict)


class Leases:
    """All leases of a process."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{secrets.token_hex(6)}:"
        self._numbers = itertools.count()
        self._current: dict[tuple[Address, Address, int], Lease] = {}
        self._all: dict[str, Lease] = {}
        self._by_job: dict[str, Lease] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._all.values()))

    def owns(self, name: str) -> bool:
        """Whether this process made the lease."""
        return name.startswith(self._prefix)

    def knows(self, name: str) -> bool:
        """Whether it has not ended yet."""
        return name in self._all

    def current(self, payer: Address, signer: Address, lane: int, now: float) -> Lease:
        """The lease that new jobs take from."""
        key = (payer, signer, lane)
        lease = self._current.get(key)
        if lease is None:
            lease = Lease(f"{self._prefix}{next(self._numbers)}", payer, signer, lane, now, now)
            self._current[key] = self._all[lease.name] = lease
        return lease

    def take(self, lease: Lease, job: str, amount: int, now: float) -> bool:
        """The job's amount out of what is free, if that is enough."""
        if lease.is_old(now):
            self.retire(lease)
        if lease.is_retired or lease.free < amount or not lease.is_open:
            return False
        lease.free -= amount
        lease.taken += amount
        lease.parts[job] = amount
        lease.used_at = now
        self._by_job[job] = lease
        return True

    def note_block(self, lease: Lease, block: int, covered: int, now: float) -> None:
        """What the store granted, by what the chain had."""
        lease.free += block
        lease.granted_at = now
        lease.covered = max(lease.covered, covered)
        lease.is_open = True

    def promised(self, jobs: Mapping[str, int]) -> Taken:
        """What a promise for these jobs takes of what they hold; leased jobs' parts shrink by as much, at once."""
        taken = Taken()
        for job, share in jobs.items():
            lease = self._by_job.get(job)
            if lease is None:
                taken.shares[job] = share
                continue
            part = min(share, lease.parts[job])
            taken.needed.setdefault(lease.name, lease.taken)
            lease.parts[job] -= part
            lease.taken -= part
            taken.parts.append((lease, job, part))
            taken.shares[lease.name] = taken.shares.get(lease.name, 0) + part
        return taken

    def undo(self, taken: Taken) -> None:
        """The store took nothing of it."""
        for lease, job, share in taken.parts:
            if job in lease.parts:
                lease.parts[job] += share
                lease.taken += share
            else:
                self._free(lease, share)

    def release(self, job: str) -> Lease | None:
        """A leased job has ended; answers its lease, None for a job that holds for itself."""
        lease = self._by_job.pop(job, None)
        if lease is not None:
            left = lease.parts.pop(job)
            lease.taken -= left
            self._free(lease, left)
        return lease

    def leave(self, job: str) -> bool:
        """The job holds for itself; whether it still runs."""
        lease = self._by_job.pop(job, None)
        if lease is not None:
            lease.taken -= lease.parts.pop(job)
        return lease is not None

    def drop_parts(self, lease: Lease) -> None:
        """Its jobs hold nothing any more."""
        for job in list(lease.parts):
            self.leave(job)

    def begin_back(self, lease: Lease) -> int:
        """Takes out all that is free, to be given back."""
        amount, lease.free, lease.back, lease.is_open = lease.free + lease.back, 0, 0, False
        return amount

    def lose(self, lease: Lease) -> None:
        """The store has less than what is counted here: nothing is free, and what is left covers jobs at best."""
        self.retire(lease)
        lease.is_lost, lease.is_open, lease.free, lease.back = True, False, 0, 0

    def named(self, name: str) -> Lease:
        """A lease by its name in the store."""
        return self._all[name]

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

    def _free(self, lease: Lease, amount: int) -> None:
        if lease.is_open and not lease.is_retired:
            lease.free += amount
        elif not lease.is_lost:
            lease.back += amount
