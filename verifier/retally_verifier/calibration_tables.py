"""From margins of honest and cheating jobs to the table of a calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retally.protocol.calibration import MarginTable
from retally_verifier.calibration_alternatives import Alternative, best_alternative
from retally_verifier.calibration_bounds import Margins, bins_of, envelope, miss_of
from retally_verifier.calibration_largest import INDEX, largest_bins, mean_tokens


@dataclass(frozen=True, slots=True)
class Made:
    """A table, and the alternative that was chosen for it."""

    table: MarginTable
    alternative: Alternative


def make_table(
    honest: Mapping[str, Sequence[Margins]],
    cheats: Mapping[str, Sequence[Margins]],
    noise: float | None = None,
    index: float = INDEX,
) -> Made:
    """The table under which these cheats lose most; honest bounds are rounded up, the alternative down.

    `noise` is the largest difference of log-probabilities between set-ups, nats; unknown, large margins are taken to
    be as likely as where set-ups differ much. `index` is that of the law of rounding.
    """
    known = math.inf if noise is None else noise
    edges, shares = bins_of(envelope(honest, known, index))
    largest, tokens = largest_bins(honest, known, miss_of(len(honest)), index), mean_tokens(honest)
    alternative = best_alternative(cheats, edges, shares, largest, tokens)
    return Made(MarginTable(edges, shares, alternative.shares, largest, tokens), alternative)
