"""How often honest tokens have a margin that reaches an edge, at most, with upper confidence bounds by job.

A table's honest share of a bin is what the bounds of its two edges differ by, so that all shares add up to one: the
distribution of the largest margins that honest tokens may have. The likelihood ratio of a table never falls as margins
grow. So its expectation is at most what it is under that distribution, one, for all that is distributed below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retally.protocol.calibration import PROBABILITY
from retally_verifier.calibration_largest import EDGES, INDEX, reach_bounds

Margins = NDArray[np.float64]
Floats = NDArray[np.float64]

#: All bounds of all set-ups together are exceeded with at most this probability.
CONFIDENCE_MISS = 1e-3
#: How many tokens of a job reach an edge, if one does, where too few jobs were seen to.
UNSEEN_HITS = 2.0
#: From so many jobs on that reach an edge their own mean hits count; fewer say too little about it.
MANY = 10


def histograms(jobs: Sequence[Margins], edges: Sequence[int] = EDGES) -> Floats:
    """Counts by job and bin."""
    bounds = np.asarray(edges) / 1e6
    return np.array(
        [np.bincount(np.searchsorted(bounds, job, side="right"), minlength=len(bounds) + 1) for job in jobs],
        dtype=np.float64,
    )


def tail_bounds(jobs: Sequence[Margins], noise: float, miss: float, index: float = INDEX) -> Floats:
    """For each edge an upper bound of a token's chance to reach it: jobs are independent, their tokens are not."""
    counts = histograms(jobs)
    tokens = counts.sum(axis=1).mean()
    beyond = np.cumsum(counts[:, ::-1], axis=1)[:, -2::-1]
    hits = [_hits(beyond[:, edge]) for edge in range(len(EDGES))]
    # A margin is no likelier than a smaller one.
    falling: Floats = np.minimum.accumulate(reach_bounds(jobs, noise, miss, index) * hits / tokens)
    return np.asarray(np.minimum(1.0, falling), dtype=np.float64)


def _hits(beyond: Floats) -> float:
    """How many tokens of a job reach an edge, at most, on the mean of the jobs of which one does."""
    inside = beyond[beyond > 0]
    seen = float(inside.mean() + 2 * inside.std() / math.sqrt(len(inside))) if len(inside) else 0.0
    return seen if len(inside) >= MANY else max(UNSEEN_HITS, seen)


def miss_of(set_ups: int) -> float:
    """The chance to lie below the truth that all bounds of one set-up may have together."""
    return CONFIDENCE_MISS / set_ups


def envelope(honest: Mapping[str, Sequence[Margins]], noise: float, index: float = INDEX) -> Floats:
    """Edge by edge the largest bound of any set-up."""
    miss = miss_of(len(honest))
    bounds: Floats = np.max([tail_bounds(jobs, noise, miss, index) for jobs in honest.values()], axis=0)
    return bounds


def bins_of(tails: Floats) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Edges, and the honest shares of their bins; an edge that is reached as often as the one before is none."""
    edges, reached = [], [PROBABILITY]
    for edge, tail in zip(EDGES, tails, strict=True):
        # Where nothing is known, a bin without a margin is left all the same: its ratio is that of all others.
        share = min(PROBABILITY - 1, max(1, math.ceil(tail * PROBABILITY)))
        if share < reached[-1]:
            edges.append(edge)
            reached.append(share)
    return tuple(edges), tuple(one - two for one, two in zip(reached, [*reached[1:], 0], strict=True))
