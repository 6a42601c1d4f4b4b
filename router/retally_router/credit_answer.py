"""What a job asks the store for, and what that says."""

from __future__ import annotations

from dataclasses import dataclass

from retally.protocol.eip712 import Address
from retally_router.ports import Standing


@dataclass(frozen=True, slots=True)
class Want:
    """The largest fee of a job, to be set aside; the lane names the process that holds it."""

    payer: Address
    signer: Address
    job: str
    amount: int
    lane: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store says to a hold."""

    #: `ok`, or `lease` for a block; `funds` or `cap` for what is missing; `lost` where the lease is not what its
    #: process counts; `ended` where the job has ended before; `stale` where a later look at the chain is known.
    reason: str
    #: What is left where it refuses; the block where it grants one.
    left: int
    #: Each lease of which something may be free, with when it was last granted from.
    leases: frozenset[tuple[str, str]] = frozenset()
    #: What the chain had by the look that it was asked with.
    covered: int = 0
    #: What a job that holds alone now took out of its lease.
    took: int = 0

    @property
    def is_held(self) -> bool:
        """Whether the job is covered."""
        return self.reason == "ok"


HELD = Answer("ok", 0)


def covered_by(standing: Standing) -> int:
    """What the chain had for a payer before the signer spent of it: it falls only where money went elsewhere."""
    return standing.balance + standing.used
