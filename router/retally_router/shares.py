"""What a promise on a channel is for: which ended and which open jobs pay for it out of what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from retally_router.open_segments import OpenSegments, SegmentKey


@dataclass(slots=True)
class Shares:
    """Parts of one promise."""

    #: By job: of what its closed segments owe.
    owing: dict[bytes, int] = field(default_factory=dict)
    open: dict[SegmentKey, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.owing.values()) + sum(self.open.values())

    def first(self, most: int) -> Shares:
        """No more than so much of it: of what was promised late, another promise may have been for the rest."""
        shares = Shares()
        for job_id, amount in self.owing.items():
            shares.owing[job_id] = share = min(amount, most)
            most -= share
        for key, amount in self.open.items():
            shares.open[key] = share = min(amount, most)
            most -= share
        return shares

    @property
    def jobs(self) -> dict[str, int]:
        """By job, as credit knows it."""
        jobs: dict[str, int] = {}
        for job_id, share in (*self.owing.items(), *((key[0], share) for key, share in self.open.items())):
            jobs[job_id.hex()] = jobs.get(job_id.hex(), 0) + share
        return jobs


def shares_of(more: int, owing: Mapping[bytes, int], open_: OpenSegments) -> Shares:
    """Which jobs a further promise is for: first what is owed, then what may be due soon, then what may be at all.

    It is less than was asked for where no job holds that much.
    """
    shares = Shares()
    for job_id, owed in owing.items():
        shares.owing[job_id] = share = max(0, min(more, owed))
        more -= share
    for is_last in (False, True):
        for key, segment in open_.items():
            if more <= 0:
                return shares
            if segment.is_charged:
                continue
            had, most = shares.open.get(key, 0), segment.limit if is_last else segment.upper + segment.slack
            share = max(0, min(more, most - segment.share - had))
            if share:
                shares.open[key], more = had + share, more - share
    return shares
