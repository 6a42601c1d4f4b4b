"""From replays to tables and to evidence: one half of the honest jobs makes a table, the other is judged by it.

A table's honest bounds are the envelope over the pairs of profiles that it serves, one as a rule. How fine its bins
are costs confidence for each try, which is shared out. Its alternative, the mean of known cheats or one of them, more
or less sparse, is free: the bound holds for each that sums to one. Both are chosen by the cheats that make
alternatives, and the mean over all cheats is not always best: what moves nearly every token is seen under any.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retally.protocol.calibration import PROBABILITY, Bins, MarginTable
from retally.protocol.evidence import JOB_MISMATCH, TOKEN_CLIP, WEIGHTS, largest_log_e, margin_log_e
from retally_verifier.calibration_largest import largest_bins, mean_tokens, seen_bins
from retally_verifier.calibration_tables import CONFIDENCE_MISS, FLAT, Margins, histograms, miss_of, upper_bounds

Floats = NDArray[np.float64]

#: Bins that are tried, margins in 1e-6; the first holds what is exactly zero.
EDGE_SETS = (
    (1, 20_000, 80_000, 200_000, 500_000, 1_000_000, 2_000_000, 4_000_000),
    (1, 20_000, 40_000, 60_000, 80_000, 100_000, 130_000, 160_000, 250_000),
    (30_000, 60_000, 90_000, 120_000, 160_000, 250_000),
    (60_000, 100_000, 140_000),
    (80_000, 200_000),
    (100_000, 250_000),
    (1, 500_000),
    (1,),
)
#: What else is told: the law of rounding that asks for least.
SQUARE = 2.0
#: How much of the alternative is the cheats' mean; the rest is tokens like honest ones.
SPARSITIES = (1.0, 0.3, 0.1, 0.03, 0.01)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table, and what was chosen for it."""

    table: MarginTable
    #: The cheats that its alternative is made of.
    alternative: str
    sparsity: float
    #: The same table, but with nothing said about margins farther out than those that were seen.
    without_laws: MarginTable
    #: The same table, if margins by rounding fell with the square only.
    under_square: MarginTable
    #: The chance that any bin of any pair and any trial lies above its bound, if jobs are drawn alike.
    miss: float = CONFIDENCE_MISS


def bounds(honest: Mapping[str, Sequence[Margins]], edges: Sequence[int], trials: int) -> Floats:
    """Bin by bin the largest upper bound of any pair; shares a token, deliberately not renormalised."""
    miss = miss_of(len(honest), trials, edges)
    found: Floats = np.max([upper_bounds(jobs, miss, edges) for jobs in honest.values()], axis=0)
    return found


def mixed(cheats: Mapping[str, Sequence[Margins]], edges: Sequence[int], sparsity: float) -> Floats:
    """The cheats' mean distribution, each counted alike, thinned out by tokens without a margin."""
    shares = []
    for jobs in cheats.values():
        total = histograms(jobs, edges).sum(axis=0)
        shares.append(total / total.sum())
    flat = np.full(len(edges) + 1, 1 / (len(edges) + 1))
    alternative: Floats = sparsity * ((1 - FLAT) * np.mean(shares, axis=0) + FLAT * flat)
    alternative[0] += 1 - sparsity
    return alternative


def table_of(
    honest: Floats, alternative: Floats, edges: Sequence[int], largest: Bins, largest_tokens: int
) -> MarginTable:
    """The table as integers: honest bounds rounded up, the alternative rounded down."""
    return MarginTable(
        edges=tuple(edges),
        honest=tuple(max(1, math.ceil(value * PROBABILITY)) for value in honest),
        cheat=tuple(math.floor(value * PROBABILITY) for value in alternative),
        largest=largest,
        largest_tokens=largest_tokens,
    )


def fit(
    honest: Mapping[str, Sequence[Margins]], cheats: Mapping[str, Sequence[Margins]], noise: float = math.inf
) -> Fitted:
    """The table under which these cheats lose most; neither the judged jobs nor the unseen cheats are looked at.

    `noise` is the largest difference of log-probabilities that the pairs showed, nats.
    """
    best: tuple[float, Fitted] | None = None
    for edges in EDGE_SETS:
        honest_bounds = bounds(honest, edges, len(EDGE_SETS))
        miss = miss_of(len(honest), len(EDGE_SETS), edges)
        largest, seen = largest_bins(honest, noise, miss), seen_bins(honest, miss)
        square = largest_bins(honest, noise, miss, SQUARE)
        counts = [(histograms(jobs, edges), peaks(jobs)) for jobs in cheats.values()]
        for name, chosen, sparsity in alternatives(cheats):
            table = table_of(honest_bounds, mixed(chosen, edges, sparsity), edges, largest, mean_tokens(honest))
            gain = float(np.mean([growth(*each, table) for each in counts]))
            if best is None or gain > best[0]:
                others = replace(table, largest=seen), replace(table, largest=square)
                best = gain, Fitted(table, name, sparsity, *others)
    if best is None:
        raise ValueError("no table was tried")
    return best[1]


def alternatives(
    cheats: Mapping[str, Sequence[Margins]],
) -> Iterator[tuple[str, Mapping[str, Sequence[Margins]], float]]:
    """What is tried: all cheats or one of them, and how sparse."""
    named: dict[str, Mapping[str, Sequence[Margins]]] = {
        "all": cheats,
        **{name: {name: cheats[name]} for name in cheats},
    }
    for (name, chosen), sparsity in itertools.product(named.items(), SPARSITIES):
        yield name, chosen, sparsity


def peaks(jobs: Sequence[Margins]) -> Floats:
    """Each job's largest margin."""
    return np.array([job.max(initial=0.0) for job in jobs])


def growth(counts: Floats, largest: Floats, table: MarginTable) -> float:
    """What an owner's bet of a half gains a job, nats; what is a mismatch by itself need not become more of one.

    From the jobs' counts by bin, since a fit tries hundreds of tables; jobs are judged by `log_es`.
    """
    ratios = table.ratios()
    sums = np.array([counts @ np.minimum(TOKEN_CLIP, np.log(1 - w + w * ratios)) for w in WEIGHTS])
    values = np.logaddexp.reduce(sums, axis=0) - math.log(len(WEIGHTS))
    if table.largest is not None:
        parts = (-(-counts.sum(axis=1) // table.largest_tokens)).astype(int)
        bins = table.largest
        alone = np.array([largest_log_e(value, bins, part) for value, part in zip(largest, parts, strict=True)])
        values = np.logaddexp(values, alone) - math.log(2)
    return float(np.log(0.5 + 0.5 * np.exp(np.minimum(JOB_MISMATCH, values))).mean())


def log_es(jobs: Sequence[Margins], table: MarginTable) -> Floats:
    """log e of each job, by the protocol's own function."""
    return np.array([margin_log_e(job, table) for job in jobs])
