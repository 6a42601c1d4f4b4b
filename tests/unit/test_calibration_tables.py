"""Calibration tables from margins: bounds that hold, alternatives that fit."""

from __future__ import annotations

import numpy as np

from retally.protocol.calibration import PROBABILITY
from retally.protocol.evidence import margin_log_e
from retally_verifier.calibration_tables import (
    EDGES,
    Margins,
    alternative,
    envelope,
    hold_out,
    make_table,
    upper_bounds,
)


def jobs(count: int, rate: float, size: float, seed: int, tokens: int = 64) -> list[Margins]:
    """Jobs of which a share of tokens has margins of that size."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(tokens) < rate, rng.exponential(size, tokens), 0.0) for _ in range(count)]


HONEST = {"alone": jobs(60, 0.0, 0.1, 1), "batched": jobs(60, 0.005, 0.05, 2)}
CHEATS = {"int4": jobs(20, 0.05, 0.8, 3), "other-seed": jobs(20, 0.7, 3.0, 4)}


def test_bounds_lie_above_what_was_seen() -> None:
    seen = np.concatenate(HONEST["batched"])
    bounds = upper_bounds(HONEST["batched"], 1e-4)
    shares = np.histogram(seen, [0, *(edge / 1e6 for edge in EDGES), np.inf])[0] / len(seen)
    assert (bounds >= shares).all()
    assert bounds[0] == 1


def test_bins_that_were_never_seen_are_not_free() -> None:
    few, many = upper_bounds(jobs(20, 0, 1, 5), 1e-4)[-1], upper_bounds(jobs(200, 0, 1, 5), 1e-4)[-1]
    assert 0 < many < few < 1


def test_one_noisy_job_counts_as_one_job() -> None:
    clustered = [np.zeros(64) for _ in range(59)] + [np.full(64, 0.3)]
    spread = [np.array([0.3] + [0.0] * 63) if i < 4 else np.zeros(64) for i in range(60)]
    assert upper_bounds(clustered, 1e-4)[4] > upper_bounds(spread, 1e-4)[4]


def test_envelope_covers_every_set_up() -> None:
    miss = 1e-3 / (len(EDGES) * 2)
    assert (envelope(HONEST) >= upper_bounds(HONEST["alone"], miss)).all()
    assert envelope(HONEST).sum() > 1


def test_alternatives_weigh_one() -> None:
    assert np.isclose(alternative(CHEATS).sum(), 1)


def test_table_convicts_cheats_and_frees_the_honest() -> None:
    table = make_table(HONEST, CHEATS)
    assert sum(table.cheat) <= PROBABILITY
    assert all(margin_log_e(job, table) < 0 for job in jobs(40, 0.0, 0.1, 6))
    assert np.mean([margin_log_e(job, table) > 9.3 for job in jobs(40, 0.5, 2.0, 7)]) == 1
    held = hold_out(HONEST, CHEATS)
    assert held.jobs == 60
    assert held.mean_e < 1
