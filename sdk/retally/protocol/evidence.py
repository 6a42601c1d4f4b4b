"""Evidence: e-values of jobs and of owners, and what they amount to (R-35, R-36)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retally.protocol.calibration import Bins, Calibration, MarginTable
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Address
from retally.protocol.margins import Floats, Replayed, ReplayScores, robust_margins

TOKEN_CLIP = 9.5
#: What a job's largest margin may say by itself; two such jobs are no owner's mismatch yet.
LARGEST_CLIP = 11.0
JOB_CLIP = 18.0
PAYER_CLIP = 25.0
WEIGHTS = (0.5, 0.05, 0.005)
LAMBDAS = (0.5, 0.1, 0.01, 0.001, 0.0001)
JOB_MISMATCH = math.log(1e4)
OWNER_MISMATCH = math.log(1e9)
#: `logE` on chain is in 1e-6 nat.
NAT = 1_000_000


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """What one audited receipt says; an uncalibrated job says nothing, which is e = 1."""

    payer: Address
    log_e: float
    calibrated: bool = True

    @property
    def verdict(self) -> VerdictKind:
        """The three verdicts of R-35."""
        return verdict_of(self.log_e) if self.calibrated else VerdictKind.INCONCLUSIVE


def margin_log_e(margins: Floats, table: MarginTable) -> float:
    """log e of a job's margins, clipped: the mean of what all of them and what the largest alone says."""
    if len(margins) == 0:
        return 0.0
    ratios = table.ratios()[table.bins(margins)]
    sums = [float(np.minimum(TOKEN_CLIP, np.log(1 - w + w * ratios)).sum()) for w in WEIGHTS]
    said = [_log_mean_exp(sums)]
    if table.largest is not None:
        said.append(largest_log_e(float(margins.max()), table.largest, -(-len(margins) // table.largest_tokens)))
    return min(JOB_CLIP, _log_mean_exp(said))


def largest_log_e(largest: float, bins: Bins, stretch: int = 1) -> float:
    """What the largest margin of a job says: one token may be all that a cheat changed; -inf where it is small.

    The job is `stretch` times as long as those that the bins hold for: one of its parts reaches a bin at most so many
    times as likely.
    """
    ratio = float(bins.ratios()[int(bins.bins(np.array([largest]))[0])]) / stretch
    return min(LARGEST_CLIP, math.log(ratio)) if ratio > 0 else -math.inf


def running_log_e(margins: Floats, table: MarginTable) -> list[float]:
    """log e of a job's first token, its first two, and so on."""
    return [margin_log_e(margins[:count], table) for count in range(1, len(margins) + 1)]


def combine(log_es: Sequence[float]) -> float:
    """The evidence that all re-executors agree on: the least of them."""
    if not log_es:
        return 0.0
    return min(log_es)


def verdict_of(log_e: float) -> VerdictKind:
    """The verdict on a job."""
    if log_e < 0:
        return VerdictKind.MATCH
    return VerdictKind.MISMATCH if log_e >= JOB_MISMATCH else VerdictKind.INCONCLUSIVE


def owner_wealth_log(jobs: Sequence[JobEvidence], undisclosed: int) -> float:
    """log wealth of an owner's e-process over the drawn points of a period; a point not shown only lowers it."""
    by_payer: dict[Address, list[float]] = defaultdict(list)
    for job in jobs:
        by_payer[job.payer].append(min(job.log_e, JOB_CLIP))
    return _log_mean_exp([_wealth(bet, by_payer, undisclosed) for bet in LAMBDAS])


def _wealth(bet: float, by_payer: dict[Address, list[float]], undisclosed: int) -> float:
    total = undisclosed * math.log1p(-bet)
    for log_es in by_payer.values():
        # One payer alone can add only so much: it may have written prompts that honest kernels disagree on.
        total += min(PAYER_CLIP, sum(math.log(1 - bet + bet * math.exp(value)) for value in log_es))
    return total


def owner_verdict(log_wealth: float) -> VerdictKind:
    """What jurors vote at this wealth (R-36)."""
    if log_wealth >= OWNER_MISMATCH:
        return VerdictKind.MISMATCH
    return VerdictKind.MATCH if log_wealth < 0 else VerdictKind.INCONCLUSIVE


def covering_table(replayed: Replayed, calibration: Calibration | None) -> MarginTable | None:
    """The table that judges an answer; None where it lies outside the calibrated ranges."""
    if calibration is None or not calibration.covers(
        replayed.params, len(replayed.prompt_ids), len(replayed.output_ids)
    ):
        return None
    return calibration.table_for(replayed.params)


def replay_point(replayed: Replayed, scores: ReplayScores, calibration: Calibration | None) -> JobLogE:
    """What one re-executor's scores say about an answer's output tokens."""
    table = covering_table(replayed, calibration)
    if table is None:
        return JobLogE(0.0, False, {})
    margins = robust_margins(replayed, scores)
    histogram = np.bincount(table.bins(margins), minlength=len(table.honest))
    summary = {
        "tokens": len(margins),
        "positive": int((margins > 0).sum()),
        "largest": float(margins.max(initial=0.0)),
        "histogram": [int(value) for value in histogram],
    }
    return JobLogE(margin_log_e(margins, table), True, summary)


@dataclass(frozen=True, slots=True)
class JobLogE:
    """One re-executor's log e of a job, and the margins behind it in short."""

    log_e: float
    calibrated: bool
    summary: dict[str, Any]

    @property
    def verdict(self) -> VerdictKind:
        """The three verdicts of R-35."""
        return verdict_of(self.log_e) if self.calibrated else VerdictKind.INCONCLUSIVE


def on_chain(log_e: float) -> int:
    """log e in 1e-6 nat, rounded towards zero."""
    return int(log_e * NAT)


def _log_mean_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values) / len(values))
