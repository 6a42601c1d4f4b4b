"""Honest jobs in quarters, drawn by their seeds: a table of three judges the fourth, so none is judged by its own.

The reports of `retally verifier calibrate` and the measurement behind docs/VERIFICATION.md judge by this rule alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import margin_log_e
from retally_verifier.calibration_bounds import Floats, Margins

Job = TypeVar("Job")

#: Into so many parts honest jobs are divided.
PARTS = 4


def quarters_of(seeds: Sequence[bytes]) -> list[int]:
    """Which quarter each of one node's jobs belongs to, by its seed: the same whoever replays it."""
    ranks = {seed: rank for rank, seed in enumerate(sorted(seeds))}
    return [ranks[seed] * PARTS // len(seeds) for seed in seeds]


def parted(jobs: Sequence[Job], quarters: Sequence[int]) -> tuple[list[Job], ...]:
    """The jobs of each quarter."""
    parts: tuple[list[Job], ...] = tuple([] for _ in range(PARTS))
    for job, quarter in zip(jobs, quarters, strict=True):
        parts[quarter].append(job)
    return parts


def others(parts: Sequence[Sequence[Job]], quarter: int) -> list[Job]:
    """What makes the table that judges a quarter."""
    return [job for index, jobs in enumerate(parts) if index != quarter for job in jobs]


def largest_of(found: Sequence[float | None]) -> float | None:
    """The largest difference of log-probabilities, nats; none where one of them is not known."""
    known = [each for each in found if each is not None]
    return max(known) if known and len(known) == len(found) else None


def judged_by(
    parts: Sequence[Sequence[Margins]], tables: Sequence[MarginTable]
) -> Iterator[tuple[Margins, MarginTable]]:
    """Each job, quarter by quarter, and the table that it took no part in."""
    for jobs, table in zip(parts, tables, strict=True):
        for job in jobs:
            yield job, table


def quartered_log_es(parts: Sequence[Sequence[Margins]], tables: Sequence[MarginTable]) -> Floats:
    """log e of each job under the table that it took no part in."""
    return np.array([margin_log_e(job, table) for job, table in judged_by(parts, tables)])
