"""What the store says to a job that asks for credit."""

from __future__ import annotations

from dataclasses import dataclass

from retally_router.ports import Standing


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store says to a hold."""

    reason: str
    #: What is left where it refuses; the block where it grants one.
    left: int
    #: Each lease of which something may be free, with when it was last granted from.
    leases: frozenset[tuple[str, str]] = frozenset()
    #: What the chain had by the look that it was asked with.
    covered: int = 0

    @property
    def is_held(self) -> bool:
        """Whether the job is covered."""
        return self.reason == "ok"


HELD = Answer("ok", 0)


def covered_by(standing: Standing) -> int:
    """What the chain had for a payer before the signer spent of it: it falls only where money went elsewhere."""
    return standing.balance + standing.used
