"""From replays to tables and to evidence: what is judged never made the table that judges it.

A table's honest bounds are the envelope over the pairs of profiles that it serves, one as a rule. It is made as
`retally verifier calibrate` makes its own; its alternative is chosen by the cheats that make alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import margin_log_e
from retally_verifier.calibration_bounds import CONFIDENCE_MISS, Margins
from retally_verifier.calibration_largest import NO_LAW
from retally_verifier.calibration_tables import make_table

Floats = NDArray[np.float64]

#: What else is told: the law of rounding that asks for least.
SQUARE = 2.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table, and what was chosen for it."""

    table: MarginTable
    #: The cheats that its alternative is made of.
    alternative: str
    sparsity: float
    #: A table with nothing said about margins farther out than those that were seen.
    without_laws: MarginTable
    #: A table, if margins by rounding fell with the square only.
    under_square: MarginTable
    #: The chance that any bound of any pair lies below the truth, if jobs are drawn alike.
    miss: float = CONFIDENCE_MISS


def fit(
    honest: Mapping[str, Sequence[Margins]], cheats: Mapping[str, Sequence[Margins]], noise: float = math.inf
) -> Fitted:
    """The table under which these cheats lose most; neither the judged jobs nor the unseen cheats are looked at.

    `noise` is the largest difference of log-probabilities that the pairs showed, nats.
    """
    made = make_table(honest, cheats, noise)
    without, square = (make_table(honest, cheats, noise, index).table for index in (NO_LAW, SQUARE))
    return Fitted(made.table, made.alternative.cheats, made.alternative.sparsity, without, square)


def log_es(jobs: Sequence[Margins], table: MarginTable) -> Floats:
    """log e of each job, by the protocol's own function."""
    return np.array([margin_log_e(job, table) for job in jobs])
