"""How likely an honest job's largest margin is to be far out: measured near, by two laws beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest

import calibration_largest
from calibration_largest import EDGES, SHARES, fall, largest_bins, reach_bounds, upper_share
from calibration_tables import Margins, make_table
from retally.protocol.calibration import PROBABILITY
from retally.protocol.evidence import JOB_MISMATCH, margin_log_e
from retally.protocol.sampler import noise

QUIET, LOUD = 1e-4, math.inf
CLEAN: list[Margins] = [np.zeros(64) for _ in range(400)]
CHEATS = {"int4": [np.full(64, 0.6), np.zeros(64)]}


def noisy(count: int, hits: int, size: float) -> list[Margins]:
    """Jobs of which some have one margin of that size."""
    return [np.array([size if index < hits else 0.0, *[0.0] * 63]) for index in range(count)]


class TestBounds:
    def test_hold_what_was_seen_and_fall(self) -> None:
        for noise_seen in (QUIET, LOUD):
            bounds = reach_bounds(noisy(400, 40, 0.5), noise_seen, 1e-4)
            assert bounds[0] >= bounds[1] > 40 / 400
            assert (np.diff(bounds) <= 0).all()

    def test_are_measured_where_no_law_is_tighter(self) -> None:
        assert reach_bounds(CLEAN, QUIET, 1e-4)[0] == upper_share(0, 400, 1e-4)
        assert upper_share(0, 400, 1e-4) == pytest.approx(1 - 1e-4 ** (1 / 400))

    def test_where_set_ups_differ_much_far_margins_stay_likely(self) -> None:
        quiet, loud = (reach_bounds(CLEAN, seen, 1e-4)[-1] for seen in (QUIET, LOUD))
        assert loud > 20 * quiet

    def test_a_far_margin_that_was_seen_counts(self) -> None:
        assert reach_bounds(noisy(400, 4, 5.0), QUIET, 1e-4)[-1] > 4 / 400

    def test_the_alternative_weighs_one(self) -> None:
        bins = largest_bins({"alone": CLEAN}, QUIET, 1e-4)
        assert sum(SHARES) == 1
        assert sum(bins.cheat) <= PROBABILITY
        assert bins.honest[0] == PROBABILITY
        assert len(bins.honest) == len(EDGES) + 1


class TestLaws:
    def test_a_margin_is_no_likelier_than_a_smaller_one(self) -> None:
        assert fall(0.3, 0.3, 1.0) == 1
        assert 1 >= fall(0.3, 0.4, 1.0) >= fall(0.3, 4.0, 1.0) >= fall(0.3, 4.0, 0.0) > 0

    @pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
    def test_a_disputed_winner_wins_by_more_as_seldom_as_said(self, share: float) -> None:
        # The protocol's own noise: how far the token that only one side allows beats the other, where it wins.
        wins = []
        ids = np.array([0, 1])
        logits = np.log([share, 1 - share])
        for position in range(20_000):
            first, second = logits + noise(b"s" * 32, position, ids)
            if first > second:
                wins.append(first - second)
        for far in (0.5, 1.0, 2.0):
            seen = float(np.mean(np.array(wins) > far))
            law = math.exp(-far) / (1 - share + share * math.exp(-far))
            assert seen == pytest.approx(law, abs=4 * math.sqrt(law / len(wins)) + 0.01)
            assert law <= 2 * math.exp(-far)


class TestTables:
    def test_one_token_is_a_mismatch_under_quiet_tables_only(self) -> None:
        spliced = np.zeros(64)
        spliced[7] = 6.0
        quiet, loud = (make_table({"alone": CLEAN}, CHEATS, seen) for seen in (QUIET, None))
        assert margin_log_e(spliced, quiet) >= JOB_MISMATCH
        assert 3 < margin_log_e(spliced, loud) < JOB_MISMATCH
        assert margin_log_e(np.zeros(64), quiet) < 0

    def test_bins_are_given_even_where_noise_is_unknown(self) -> None:
        table = make_table({"alone": CLEAN}, CHEATS)
        assert table.largest is not None
        assert table.largest.edges == calibration_largest.EDGES
