"""What a table expects of cheats: fitted to known ones, free to choose, since its bound holds for each that rises.

The mean of the cheats or one of them alone, more or less sparse, whichever gains most. The mean is not always best:
what moves nearly every token is seen under any.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from retally.protocol.calibration import PROBABILITY, Bins
from retally.protocol.evidence import JOB_MISMATCH, TOKEN_CLIP, WEIGHTS, largest_log_e
from retally_verifier.calibration_bounds import Floats, Margins, histograms

#: How much of an alternative's margins is spread evenly, so that no bin is empty.
FLAT = 0.05
#: How much of the alternative is the cheats'; the rest is tokens without a margin.
SPARSITIES = (1.0, 0.3, 0.1, 0.03, 0.01)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Shares of a table's bins, and what they were fitted to."""

    shares: tuple[int, ...]
    #: One cheat, or "all".
    cheats: str
    sparsity: float


def best_alternative(
    cheats: Mapping[str, Sequence[Margins]], edges: Sequence[int], honest: Sequence[int], largest: Bins, tokens: int
) -> Alternative:
    """The one under which these cheats lose most; `largest` and `tokens` are what the table says of largest margins."""
    counts = {name: histograms(jobs, edges) for name, jobs in cheats.items()}
    alone = {name: largest_log_es(jobs, largest, tokens) for name, jobs in cheats.items()}

    def gain(tried: Alternative) -> float:
        ratios = np.asarray(tried.shares) / np.asarray(honest)
        return float(np.mean([growth(counts[name], alone[name], ratios) for name in cheats]))

    return max(_alternatives(counts, honest), key=gain)


def _alternatives(counts: Mapping[str, Floats], honest: Sequence[int]) -> Iterator[Alternative]:
    named = {"all": list(counts), **{name: [name] for name in counts}}
    for (name, chosen), sparsity in itertools.product(named.items(), SPARSITIES):
        yield Alternative(rising(mixed([counts[each] for each in chosen], sparsity), honest), name, sparsity)


def mixed(counts: Sequence[Floats], sparsity: float = 1.0) -> Floats:
    """The mean distribution of cheats, each counted alike, by their jobs' counts by bin; it sums to one."""
    totals = [each.sum(axis=0) for each in counts]
    mean = np.mean([total / total.sum() for total in totals], axis=0)
    # Only margins are spread: most tokens have none, and what is taken from those is missed in each of them.
    positive = float(mean[1:].sum())
    margins = sparsity * ((1 - FLAT) * mean[1:] + FLAT * positive / max(1, len(mean) - 1))
    return np.append(1 - margins.sum(), margins)


def rising(shares: Floats, honest: Sequence[int]) -> tuple[int, ...]:
    """The nearest alternative whose ratio to the honest shares never falls from bin to bin; rounded down."""
    weights = np.asarray(honest, dtype=np.float64)
    ratios = isotonic_regression(shares * PROBABILITY / weights, weights=weights).x
    # Rounded by the ratio's own steps it could fall by a hair; that makes it smaller, and so no bound false.
    return tuple(math.floor(value) for value in ratios * weights)


def largest_log_es(jobs: Sequence[Margins], largest: Bins, tokens: int) -> Floats:
    """What the largest margin of each job says, nats."""
    return np.array([largest_log_e(float(job.max(initial=0.0)), largest, -(-len(job) // tokens)) for job in jobs])


def growth(counts: Floats, alone: Floats, ratios: Floats) -> float:
    """What an owner's bet of a half gains a job, nats; what is a mismatch by itself need not become more of one.

    From the jobs' counts by bin, since a fit tries many alternatives; jobs are judged by `margin_log_e`.
    """
    sums = np.array([counts @ np.minimum(TOKEN_CLIP, np.log(1 - w + w * ratios)) for w in WEIGHTS])
    values = np.logaddexp.reduce(sums, axis=0) - math.log(len(WEIGHTS))
    values = np.logaddexp(values, alone) - math.log(2)
    return float(np.log(0.5 + 0.5 * np.exp(np.minimum(JOB_MISMATCH, values))).mean())
