"""A job with an Idempotency-Key whose node may have it: what it takes to be shown the same answer, paid once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from retally_router.job_log import JobRecord


class BegunJob(msgspec.Struct, frozen=True):
    """The job as it was signed, and the node that got it."""

    record: JobRecord
    signature: bytes
    params: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether it begins with the first token: what came before a continuation is nowhere else."""
        return not any(start for _, _, start in self.record.segments)


@dataclass(slots=True)
class Repeatable:
    """One request that may be repeated, on its way through this router."""

    #: What a router began under this key and did not live to end.
    begun: BegunJob | None
    keep: Callable[[BegunJob], Awaitable[None]]
    noted: bool = False

    async def note(self, job: BegunJob) -> None:
        """Before its node gets it."""
        if job.is_whole:
            self.noted = True
            await self.keep(job)
