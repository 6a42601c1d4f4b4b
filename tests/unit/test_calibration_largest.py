"""How likely an honest job's largest margin is to be far out: measured near, by two laws beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retally.protocol.calibration import PROBABILITY
from retally.protocol.evidence import JOB_MISMATCH, margin_log_e
from retally.protocol.margins import NEAR
from retally.protocol.sampler import noise
from retally_verifier import calibration_largest
from retally_verifier.calibration_bounds import Margins
from retally_verifier.calibration_largest import (
    EDGES,
    LEAST_START,
    MEASURED,
    MOST,
    NO_LAW,
    alternative,
    fall,
    largest_bins,
    reach_bounds,
    upper_share,
)
from retally_verifier.calibration_tables import make_table

QUIET, LOUD = 1e-4, math.inf
CLEAN: list[Margins] = [np.zeros(64) for _ in range(400)]
CHEATS = {"int4": [np.full(64, 0.6), np.zeros(64)]}


def noisy(count: int, hits: int, size: float) -> list[Margins]:
    """Jobs of which some have one margin of that size."""
    return [np.array([size if index < hits else 0.0, *[0.0] * 63]) for index in range(count)]


class TestBounds:
    def test_hold_what_was_seen_and_fall(self) -> None:
        for noise_seen in (QUIET, LOUD):
            bounds = reach_bounds(noisy(400, 40, 0.3), noise_seen, 1e-4)
            seen = EDGES.index(300_000)
            assert bounds[0] >= bounds[seen] > 40 / 400 > bounds[seen + 1]
            assert (np.diff(bounds) <= 0).all()

    def test_are_measured_up_to_where_a_narrow_edge_is_enough(self) -> None:
        bounds = reach_bounds(CLEAN, QUIET, 1e-4)
        # Of all that may go wrong, half is for the edges that no job reached.
        assert set(bounds[:MEASURED]) == {upper_share(0, 400, 5e-5)}
        assert bounds[MEASURED] < upper_share(0, 400, 5e-5)
        assert upper_share(0, 400, 1e-4) == pytest.approx(1 - 1e-4 ** (1 / 400))
        assert EDGES[MEASURED - 1] / 1e6 == NEAR < EDGES[MEASURED] / 1e6

    def test_without_a_law_nothing_falls_beyond_what_was_seen(self) -> None:
        assert set(reach_bounds(CLEAN, LOUD, 1e-4, NO_LAW)) == {upper_share(0, 400, 5e-5)}

    def test_no_law_starts_in_the_bulk_of_the_noise(self) -> None:
        bulk = noisy(400, 390, 0.02)
        bounds = reach_bounds(bulk, 0.0, 1e-4)
        start, end = EDGES[LEAST_START], EDGES[MEASURED]
        assert bounds[MEASURED] >= bounds[LEAST_START] * fall(start, end) > bounds[1] * fall(EDGES[1], end)

    def test_where_set_ups_differ_much_far_margins_stay_likely(self) -> None:
        quiet, loud = (reach_bounds(CLEAN, seen, 1e-4)[-1] for seen in (QUIET, LOUD))
        assert loud > 10 * quiet

    def test_a_far_margin_that_was_seen_counts(self) -> None:
        assert reach_bounds(noisy(400, 4, 5.0), QUIET, 1e-4)[-1] > 4 / 400

    def test_no_law_says_more_than_a_thousand_times_what_was_measured(self) -> None:
        assert reach_bounds(CLEAN, 0.0, 1e-4)[-1] == pytest.approx(upper_share(0, 400, 5e-5) / MOST)

    @pytest.mark.parametrize("before", range(3))
    def test_the_alternative_weighs_one(self, before: int) -> None:
        shares = alternative(before)
        assert len(shares) == before + 2
        assert sum(shares) <= 1
        assert shares[-1] == max(shares)

    def test_bins_end_where_one_margin_is_a_mismatch(self) -> None:
        many: list[Margins] = [np.zeros(64) for _ in range(2_000)]
        near, far = (largest_bins({"alone": many}, seen, 1e-4) for seen in (QUIET, 0.4))
        assert near.edges[-1] == EDGES[MEASURED] < far.edges[-1]
        assert sum(near.cheat) <= PROBABILITY
        assert near.honest[0] == PROBABILITY
        for bins in (near, far):
            # The mean with the sum's nothing, and a job that begins two parts.
            assert bins.ratios()[-1] / 4 >= 1e4


class TestLaws:
    def test_a_margin_is_no_likelier_than_a_smaller_one(self) -> None:
        assert fall(0.3, 0.3) == 1
        assert 1 >= fall(0.3, 0.4) >= fall(0.3, 4.0) > 0

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
            assert law * share <= math.exp(-far)


class TestTables:
    def test_one_token_is_a_mismatch_under_tables_of_many_quiet_jobs_only(self) -> None:
        spliced = np.zeros(64)
        spliced[7] = 6.0
        many: list[Margins] = [np.zeros(64) for _ in range(2_000)]
        quiet, few, loud = (
            make_table({"alone": jobs}, CHEATS, seen).table
            for jobs, seen in ((many, QUIET), (CLEAN, QUIET), (CLEAN, None))
        )
        assert margin_log_e(spliced, quiet) >= JOB_MISMATCH
        assert 8 < margin_log_e(spliced, few) < 11
        assert 3 < margin_log_e(spliced, loud) < JOB_MISMATCH
        assert margin_log_e(np.zeros(64), quiet) < 0

    def test_bins_are_given_even_where_noise_is_unknown(self) -> None:
        table = make_table({"alone": CLEAN}, CHEATS).table
        assert table.largest is not None
        assert set(table.largest.edges) <= set(calibration_largest.EDGES)
