"""How likely an honest job is to have one large margin, farther out than any number of jobs could measure.

An honest token gets a margin `x` in two ways only, and each has its own law:

- **Rounding.** Both sides allow the two tokens, and their logits differ by `x / 2` at least. Assumed: from the
  first edge on the chance of such noise falls at least with the square of `x`.
- **The edge of the nucleus.** The token that wins for the verifier was not allowed for the node. That they disagree
  about it hangs on numbers computed before the position's noise is added, and the noise is the payer's. So a winner
  of probability `p` wins by more than `x` with the chance `exp(-x) / (1 - p + p exp(-x))` of winning at all (a maximum
  of Gumbel variables), at most `2 exp(-x)` for `p` up to a half. They can only disagree where logits differ by
  `EPSILON`, and where the largest difference seen is less, that too is taken to fall with its square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from retally.protocol.calibration import PROBABILITY, Bins
from retally.protocol.margins import EPSILON

Margins = NDArray[np.float64]

#: Largest margins in 1e-6. What lies below the first is ordinary.
EDGES = (100_000, 300_000, 1_000_000, 4_000_000)
#: The alternative: one token that the model would not have chosen is far off. Fitted to no cheat.
SHARES = (0.0, 1 / 16, 1 / 16, 1 / 8, 3 / 4)
#: The assumed law of rounding.
INDEX = 2.0


def largest_bins(honest: Mapping[str, Sequence[Margins]], noise: float, miss: float) -> Bins:
    """The bins of a job's largest margin; `noise` is the largest difference of log-probabilities seen, nats."""
    return _bins([reach_bounds(jobs, noise, miss) for jobs in honest.values()])


def seen_bins(honest: Mapping[str, Sequence[Margins]], miss: float) -> Bins:
    """The same without either law: what was seen and nothing beyond."""
    return _bins([np.array(_seen(jobs, miss)[0]) for jobs in honest.values()])


def _bins(set_ups: Sequence[NDArray[np.float64]]) -> Bins:
    bounds = np.max(set_ups, axis=0)
    return Bins(
        edges=EDGES,
        honest=(PROBABILITY, *(max(1, math.ceil(value * PROBABILITY)) for value in bounds)),
        cheat=tuple(math.floor(share * PROBABILITY) for share in SHARES),
    )


def mean_tokens(honest: Mapping[str, Sequence[Margins]]) -> int:
    """How long a job is that the bins hold for: the mean length, of the set-up whose jobs are shortest."""
    return max(1, min(sum(map(len, jobs)) // len(jobs) for jobs in honest.values()))


def reach_bounds(jobs: Sequence[Margins], noise: float, miss: float) -> NDArray[np.float64]:
    """For each edge an upper bound of the chance that a job's largest margin reaches it.

    Up to the last edge that a job reached the bounds are those of what was seen, and the laws go on from there.
    """
    edges = [edge / 1e6 for edge in EDGES]
    seen, last = _seen(jobs, miss)
    disagree = min(1.0, (noise / EPSILON) ** INDEX)
    beyond = [
        min(seen[start] * fall(edges[start], end, disagree) for start in range(last, len(edges)) if edges[start] <= end)
        for end in edges[last:]
    ]
    return np.array([*seen[:last], *beyond])


def _seen(jobs: Sequence[Margins], miss: float) -> tuple[list[float], int]:
    """The bound that was seen for each edge, and the last edge that a job reached."""
    largest = np.array([job.max(initial=0.0) for job in jobs])
    hits = [int((largest >= edge / 1e6).sum()) for edge in EDGES]
    bounds = [upper_share(each, len(jobs), miss) for each in hits]
    return bounds, max((index for index, each in enumerate(hits) if each), default=0)


def fall(start: float, end: float, disagree: float) -> float:
    """What of the jobs that reach one margin reaches a larger one, at most."""
    if end == start:
        return 1.0
    rounding: float = (start / end) ** INDEX
    return min(1.0, rounding + disagree * 2 * math.exp(start - end))


def upper_share(hits: int, jobs: int, miss: float) -> float:
    """Clopper and Pearson's upper bound of a share."""
    return 1.0 if hits == jobs else float(beta.ppf(1 - miss, hits + 1, jobs - hits))
