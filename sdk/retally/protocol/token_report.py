"""A replay token by token: what was claimed, what was best, and how the evidence grows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from retally.protocol.calibration import Calibration
from retally.protocol.evidence import covering_table, running_log_e
from retally.protocol.exact import ROUNDING
from retally.protocol.judgement import replayed_of
from retally.protocol.margins import ReplayScores, token_margins
from retally.protocol.wire import AnswerBundle


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One output token: its position in the answer, the best certainly allowed token (R-34) and log e so far (R-35)."""

    position: int
    claimed_id: int
    allowed_id: int
    margin: float
    log_e: float | None


def token_rows(
    bundle: AnswerBundle,
    scores: ReplayScores,
    calibration: Calibration | None,
    eos_ids: Collection[int],
    *,
    is_exact: bool = False,
) -> list[TokenRow]:
    """One row for each output token; log e is nothing where no calibration covers the job, or equality judges it."""
    replayed = replayed_of(bundle, eos_ids)
    if is_exact:
        tokens, calibration = token_margins(replayed, scores, ROUNDING), None
    else:
        tokens = token_margins(replayed, scores)
    table = covering_table(replayed, calibration)
    margins = np.array([token.margin for token in tokens], dtype=np.float64)
    running = [None] * len(tokens) if table is None else running_log_e(margins, table)
    start = bundle.receipt.output_from
    return [
        TokenRow(start + n, claimed, token.allowed_id, token.margin, log_e)
        for n, (claimed, token, log_e) in enumerate(zip(bundle.output_ids, tokens, running, strict=True))
    ]
