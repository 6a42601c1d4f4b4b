"""How likely an honest job is to have one large margin, farther out than any number of jobs could measure.

An honest token gets a margin `x` in two ways only, and each has its own law:

- **Rounding.** Both sides allow the two tokens, and their log-probabilities differ by `x / 2` at least. Assumed: beyond
  what was seen the chance of such noise falls at least with `INDEX`.
- **The edge of the nucleus.** The token that wins for one side was not allowed for the other. With a margin above
  `NEAR` that needs two tokens whose difference is off by more than `WIDE` (R-34). No difference of one token above
  `noise` was seen in any job, so none of two above twice that, and beyond it the first law holds. That the two sides
  disagree hangs on numbers computed before the position's noise is added, and the noise is the payer's: a token of
  probability `p` wins by more than `x` with the chance `p exp(-x) / (1 - p + p exp(-x))` (a maximum of Gumbel
  variables), at most `exp(-x)` for `p` up to a half; and one that lies `x` below all others is drawn as seldom.

Neither law makes a margin more than `MOST` times less likely than what was measured.

All bounds of a set-up hold together but for the chance `miss`. Half of it is for the edges that no job reached: were
the bound of one of them false, no job would have reached the farthest such edge either, and that is one event however
many edges there are. A quarter is for jobs noisier than any that was seen, another is shared out among the edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from retally.protocol.calibration import PROBABILITY, Bins
from retally.protocol.evidence import JOB_MISMATCH
from retally.protocol.margins import WIDE

Margins = NDArray[np.float64]

#: Margins in 1e-6, of tokens and of jobs; the first is beyond what float32 rounds. Beyond `NEAR` laws hold.
EDGES = (
    *(100, 20_000, 40_000, 60_000, 80_000, 100_000, 130_000, 150_000, 160_000, 200_000, 300_000, 500_000),
    *(700_000, 1_000_000, 1_400_000, 2_000_000, 2_800_000, 4_000_000),
)
MEASURED = 12
#: No law starts from a nearer edge, where the bulk of the noise lies.
LEAST_START = 3
#: The assumed law of rounding; between 0.1 and 0.2 nats bfloat16 was seen to fall with the eighth power.
INDEX = 4.0
#: Nothing falls: what was seen and nothing beyond.
NO_LAW = 0.0
MOST = 1_000.0
#: What of the alternative lies where one margin makes a job a mismatch; the rest in the bins before.
FAR = 7 / 8
#: In so many bins.
BEFORE = 2
#: Even in a job twice as long as those that the bins hold for: it begins two such parts.
PARTS = 2


def largest_bins(honest: Mapping[str, Sequence[Margins]], noise: float, miss: float, index: float = INDEX) -> Bins:
    """The bins of a job's largest margin; `noise` is the largest difference of log-probabilities seen, nats."""
    bounds: NDArray[np.float64] = np.max([reach_bounds(jobs, noise, miss, index) for jobs in honest.values()], axis=0)
    last = convicting(bounds)
    first = last - min(last, BEFORE)
    shares = alternative(last - first)
    return Bins(
        edges=EDGES[first : last + 1],
        honest=(PROBABILITY, *(max(1, math.ceil(value * PROBABILITY)) for value in bounds[first : last + 1])),
        cheat=tuple(math.floor(share * PROBABILITY) for share in shares),
    )


def convicting(bounds: NDArray[np.float64]) -> int:
    """The nearest edge whose margin makes a mismatch; where none does, the nearest of the least likely ones."""
    # The mean with the sum's e, which such a job leaves at nothing, halves it.
    enough = FAR / (2 * PARTS * math.exp(JOB_MISMATCH))
    return int(np.flatnonzero(bounds <= max(enough, float(bounds.min())))[0])


def alternative(before: int) -> tuple[float, ...]:
    """What the bins weigh: one token that the model would not have chosen is far off. Fitted to no cheat."""
    return (0.0, *[(1 - FAR) / max(1, before)] * before, FAR)


def mean_tokens(honest: Mapping[str, Sequence[Margins]]) -> int:
    """How long a job is that the bins hold for: the mean length, of the set-up whose jobs are shortest."""
    return max(1, min(sum(map(len, jobs)) // len(jobs) for jobs in honest.values()))


def reach_bounds(jobs: Sequence[Margins], noise: float, miss: float, index: float = INDEX) -> NDArray[np.float64]:
    """For each edge an upper bound of the chance that a job's largest margin reaches it.

    Up to `NEAR`, and to the last edge that a job reached, the bounds are those of what was seen; then the laws go on.
    """
    edges = [edge / 1e6 for edge in EDGES]
    seen, last = _seen(jobs, miss)
    disputed = upper_share(0, len(jobs), miss / 4) * min(1.0, math.pow(2 * noise / WIDE, index))
    first, start = max(MEASURED, last + 1), max(LEAST_START, last)
    beyond = []
    for end in edges[first:]:
        rounding = min(seen[near] * fall(edges[near], end, index) for near in range(start, first))
        beyond.append(min(seen[first - 1], max(rounding + disputed * math.exp(-end), seen[start] / MOST)))
    return np.array([*seen[:first], *beyond])


def _seen(jobs: Sequence[Margins], miss: float) -> tuple[list[float], int]:
    """The bound that was seen for each edge, and the last edge that a job reached."""
    largest = np.array([job.max(initial=0.0) for job in jobs])
    hits = [int((largest >= edge / 1e6).sum()) for edge in EDGES]
    bounds = [upper_share(each, len(jobs), miss / 4 / len(EDGES) if each else miss / 2) for each in hits]
    # A margin is no likelier than a smaller one.
    falling = np.minimum.accumulate(bounds).tolist()
    return falling, max((index for index, each in enumerate(hits) if each), default=0)


def fall(start: float, end: float, index: float = INDEX) -> float:
    """What of the jobs that reach one margin by rounding reaches a larger one, at most."""
    return min(1.0, math.pow(start / end, index))


def upper_share(hits: int, jobs: int, miss: float) -> float:
    """Clopper and Pearson's upper bound of a share."""
    return 1.0 if hits == jobs else float(beta.ppf(1 - miss, hits + 1, jobs - hits))
