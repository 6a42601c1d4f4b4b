"""From margins of honest and cheating jobs to the table of a calibration, with upper confidence bounds by job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.evidence import margin_log_e
from retally_verifier import calibration_largest
from retally_verifier.calibration_largest import largest_bins, mean_tokens, upper_share

Margins = NDArray[np.float64]

#: Margins in 1e-6: zero, the noise of kernels, and then ever coarser.
EDGES = (1, 20_000, 80_000, 200_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
#: All bins of all set-ups together are exceeded with at most this probability.
CONFIDENCE_MISS = 1e-3
#: How many tokens of one job fall into a bin that no honest job was seen in, if one ever does.
UNSEEN_HITS = 2.0
#: From so many jobs on that hit a bin their own mean hits count; fewer say too little about it.
MANY = 10
#: Weight of a flat share in the alternative, so that no bin is empty.
FLAT = 0.02


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What jobs that made no table score under it."""

    jobs: int
    largest_log_e: float
    mean_e: float


def histograms(jobs: Sequence[Margins], edges: Sequence[int] = EDGES) -> NDArray[np.float64]:
    """Counts by job and bin."""
    bounds = np.asarray(edges) / 1e6
    return np.array(
        [np.bincount(np.searchsorted(bounds, job, side="right"), minlength=len(bounds) + 1) for job in jobs],
        dtype=np.float64,
    )


def upper_bounds(jobs: Sequence[Margins], miss: float, edges: Sequence[int] = EDGES) -> NDArray[np.float64]:
    """For each bin an upper bound of its probability per token: jobs are independent, their tokens are not."""
    counts = histograms(jobs, edges)
    tokens = counts.sum(axis=1).mean()
    bounds = np.ones(counts.shape[1])
    for index in range(1, counts.shape[1]):
        hit = int((counts[:, index] > 0).sum())
        share = upper_share(hit, len(jobs), miss)
        inside = counts[counts[:, index] > 0, index]
        hits = 0.0 if hit == 0 else float(inside.mean() + 2 * inside.std() / math.sqrt(hit))
        hits = hits if hit >= MANY else max(UNSEEN_HITS, hits)
        bounds[index] = min(1.0, share * hits / tokens)
    return bounds


def miss_of(set_ups: int, trials: int = 1, edges: Sequence[int] = EDGES) -> float:
    """The chance to lie below the truth that each of all bounds may have."""
    return CONFIDENCE_MISS / ((len(edges) * trials + len(calibration_largest.EDGES)) * set_ups)


def envelope(honest: Mapping[str, Sequence[Margins]]) -> NDArray[np.float64]:
    """Bin by bin the largest bound of any set-up; deliberately not renormalised."""
    miss = miss_of(len(honest))
    bounds: NDArray[np.float64] = np.max([upper_bounds(jobs, miss) for jobs in honest.values()], axis=0)
    return bounds


def alternative(cheats: Mapping[str, Sequence[Margins]]) -> NDArray[np.float64]:
    """The mean of the cheats' distributions, each counted alike, mixed with a flat share."""
    shares = []
    for jobs in cheats.values():
        total = histograms(jobs).sum(axis=0)
        shares.append(total / total.sum())
    flat = np.full(len(EDGES) + 1, 1 / (len(EDGES) + 1))
    mixed: NDArray[np.float64] = (1 - FLAT) * np.mean(shares, axis=0) + FLAT * flat
    return mixed


def make_table(
    honest: Mapping[str, Sequence[Margins]], cheats: Mapping[str, Sequence[Margins]], noise: float | None = None
) -> MarginTable:
    """The table as integers: honest bounds rounded up, the alternative rounded down.

    `noise` is the largest difference of log-probabilities between set-ups, nats; unknown, large margins are taken to
    be as likely as where set-ups differ much.
    """
    bounds, shares = envelope(honest), alternative(cheats)
    return MarginTable(
        edges=EDGES,
        honest=tuple(max(1, math.ceil(value * PROBABILITY)) for value in bounds),
        cheat=tuple(math.floor(value * PROBABILITY) for value in shares),
        largest=largest_bins(honest, math.inf if noise is None else noise, miss_of(len(honest))),
        largest_tokens=mean_tokens(honest),
    )


def hold_out(
    honest: Mapping[str, Sequence[Margins]], cheats: Mapping[str, Sequence[Margins]], noise: float | None = None
) -> HeldOut:
    """Tables from every other job, evidence of the jobs between them: honest ones must stay poor."""
    table = make_table({name: jobs[::2] for name, jobs in honest.items()}, cheats, noise)
    log_es = [margin_log_e(job, table) for jobs in honest.values() for job in jobs[1::2]]
    return HeldOut(len(log_es), max(log_es), float(np.mean(np.exp(log_es))))
