"""Calibration tables from margins: bounds that hold, alternatives that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.evidence import TOKEN_CLIP, WEIGHTS, margin_log_e
from retally_verifier.calibration_alternatives import SPARSITIES, growth, largest_log_es, mixed, rising
from retally_verifier.calibration_bounds import (
    Margins,
    bins_of,
    envelope,
    histograms,
    miss_of,
    tail_bounds,
)
from retally_verifier.calibration_largest import EDGES, NO_LAW
from retally_verifier.calibration_tables import make_table
from retally_verifier.drift import drift_log_e

QUIET = 1e-4


def jobs(count: int, rate: float, size: float, seed: int, tokens: int = 64) -> list[Margins]:
    """Jobs of which a share of tokens has margins of that size."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(tokens) < rate, rng.exponential(size, tokens), 0.0) for _ in range(count)]


HONEST = {"alone": jobs(60, 0.0, 0.1, 1), "batched": jobs(60, 0.005, 0.05, 2)}
CHEATS = {"int4": jobs(20, 0.05, 0.8, 3), "other-seed": jobs(20, 0.7, 3.0, 4)}
TABLE = make_table(HONEST, CHEATS).table


class TestBounds:
    def test_lie_above_what_was_seen_at_every_edge(self) -> None:
        seen = np.concatenate(HONEST["batched"])
        bounds = tail_bounds(HONEST["batched"], QUIET, 1e-3)
        assert all(bound >= (seen >= edge / 1e6).mean() for bound, edge in zip(bounds, EDGES, strict=True))
        assert (np.diff(bounds) <= 0).all()

    def test_edges_that_were_never_reached_are_not_free(self) -> None:
        few, many = (tail_bounds(jobs(count, 0, 1, 5), QUIET, 1e-4, NO_LAW)[-1] for count in (20, 200))
        assert 0 < many < few < 1

    def test_one_noisy_job_counts_as_one_job(self) -> None:
        clustered = [np.zeros(64) for _ in range(59)] + [np.full(64, 0.25)]
        spread = [np.array([0.25] + [0.0] * 63) if i < 4 else np.zeros(64) for i in range(60)]
        edge = EDGES.index(200_000)
        assert tail_bounds(clustered, QUIET, 1e-4)[edge] > tail_bounds(spread, QUIET, 1e-4)[edge]

    def test_hold_at_all_edges_at_once_for_nearly_all_samples(self) -> None:
        # Where the chance of each edge is known: bounds with a miss of one in ten fail in no more of the samples.
        rate, size, missed = 0.01, 0.04, 0
        truth = rate * np.exp(-np.array(EDGES) / 1e6 / size)
        for seed in range(100):
            bounds = tail_bounds(jobs(80, rate, size, 100 + seed), QUIET, 0.1)
            missed += bool((bounds[: EDGES.index(200_000)] < truth[: EDGES.index(200_000)]).any())
        assert missed <= 10

    def test_envelope_covers_every_set_up(self) -> None:
        found = envelope(HONEST, QUIET)
        for each in HONEST.values():
            assert (found >= tail_bounds(each, QUIET, miss_of(2))).all()

    def test_shares_of_bins_weigh_one_and_edges_without_news_are_none(self) -> None:
        edges, shares = bins_of(envelope({"alone": HONEST["alone"]}, QUIET))
        assert edges[0] == EDGES[0]
        assert EDGES[1] not in edges
        assert sum(shares) == PROBABILITY
        assert min(shares) > 0

    def test_too_few_jobs_make_a_table_that_accuses_nobody(self) -> None:
        table = make_table({"alone": jobs(2, 0.0, 0.1, 1, 4)}, CHEATS).table
        assert margin_log_e(np.full(64, 0.3), table) < 1


class TestAlternatives:
    @pytest.mark.parametrize("sparsity", SPARSITIES)
    def test_weigh_one(self, sparsity: float) -> None:
        assert mixed([histograms(each) for each in CHEATS.values()], sparsity).sum() == pytest.approx(1)

    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, PROBABILITY)), min_size=2, max_size=9))
    def test_rise_and_weigh_no_more_than_they_did(self, bins: Sequence[tuple[float, int]]) -> None:
        shares, honest = np.array([share for share, _ in bins]), [weight for _, weight in bins]
        shares /= max(1.0, shares.sum())
        found = rising(shares, honest)
        assert sum(found) <= PROBABILITY * shares.sum() + 1
        ratios = [share / weight for share, weight in zip(found, honest, strict=True)]
        # Rounded down, one may fall by less than one part of its bin.
        assert all(low <= high + 1 / weight for (low, high), weight in zip(pairwise(ratios), honest[1:], strict=True))

    def test_a_fit_counts_as_the_protocol_does(self) -> None:
        assert TABLE.largest is not None
        for each in CHEATS.values():
            counts, alone = histograms(each, TABLE.edges), largest_log_es(each, TABLE.largest, TABLE.largest_tokens)
            log_es = np.minimum(math.log(1e4), [margin_log_e(job, TABLE) for job in each])
            assert growth(counts, alone, TABLE.ratios()) == pytest.approx(np.log(0.5 + 0.5 * np.exp(log_es)).mean())

    def test_the_one_under_which_cheats_lose_most_is_chosen(self) -> None:
        made = make_table(HONEST, {"far": CHEATS["int4"], "none": jobs(20, 0.0, 0.1, 5)})
        assert made.alternative.cheats == "far"


def chances_of(tails: Sequence[float]) -> Margins:
    """The chance of each bin, where margins reach the edges with these."""
    return np.array([1.0, *tails]) - np.array([*tails, 0.0])


def expected(table: MarginTable, tails: Sequence[float]) -> float:
    """What a token's e is on the mean, where its margin reaches each edge with these chances."""
    ratios = table.ratios()
    factors = [np.exp(np.minimum(TOKEN_CLIP, np.log(1 - w + w * ratios))) for w in WEIGHTS]
    return max(float(chances_of(tails) @ each) for each in factors)


def expected_drift(table: MarginTable, tails: Sequence[float]) -> float:
    """The same of what a verifier takes for drift."""
    points = [0.0, *(edge / 1e6 for edge in table.edges)]
    return float(chances_of(tails) @ [math.exp(drift_log_e(np.array([point]), table)) for point in points])


class TestTables:
    @given(st.lists(st.floats(0, 1), min_size=len(TABLE.edges), max_size=len(TABLE.edges)))
    def test_a_token_expects_at_most_one_wherever_margins_are_no_larger_than_the_bounds(
        self, parts: Sequence[float]
    ) -> None:
        bounds = np.cumsum(np.array(TABLE.honest[::-1]))[::-1][1:] / PROBABILITY
        # Any distribution whose tails lie below all bounds.
        tails = np.minimum.accumulate(bounds * np.array(parts))
        assert expected(TABLE, tails.tolist()) <= 1 + 1e-9
        assert expected_drift(TABLE, tails.tolist()) <= 1 + 1e-9

    def test_a_token_expects_more_than_one_where_margins_are_larger(self) -> None:
        bounds = np.cumsum(np.array(TABLE.honest[::-1]))[::-1][1:] / PROBABILITY
        assert expected(TABLE, np.minimum(1.0, 2 * bounds).tolist()) > 1

    def test_convict_cheats_and_free_the_honest(self) -> None:
        assert sum(TABLE.cheat) <= PROBABILITY
        assert all(margin_log_e(job, TABLE) < 0 for job in jobs(40, 0.0, 0.1, 6))
        assert np.mean([margin_log_e(job, TABLE) > 9.3 for job in jobs(40, 0.5, 2.0, 7)]) == 1
        assert np.mean([math.exp(margin_log_e(job, TABLE)) for job in jobs(200, 0.005, 0.05, 8)]) < 1


class TestDrift:
    @given(shares=st.lists(st.integers(1, 1_000), min_size=2, max_size=6), below=st.data())
    def test_one_token_expects_at_most_one_below_bounds_of_edges_too(
        self, shares: list[int], below: st.DataObject
    ) -> None:
        # Any split, so that tables of a few jobs whose bounds leave nothing without a margin are among them.
        honest = [max(1, share * PROBABILITY // sum(shares)) for share in shares]
        honest[honest.index(max(honest))] += PROBABILITY - sum(honest)
        edges = tuple(1 + 200_000 * n for n in range(len(honest) - 1))
        table = MarginTable(edges, tuple(honest), tuple(honest))
        bounds = np.cumsum(np.array(honest[::-1]))[::-1][1:] / PROBABILITY
        reached = np.minimum.accumulate(bounds * np.array([below.draw(st.floats(0, 1)) for _ in bounds]))
        chances = np.array([1.0, *reached]) - np.array([*reached, 0.0])
        points = [0.0, *[edge / 1e6 for edge in edges]]
        es = [math.exp(drift_log_e(np.array([point]), table)) for point in points]
        assert float(chances @ np.array(es)) <= 1 + 1e-9

    def test_tokens_without_a_margin_are_no_drift_however_loose_the_bounds_are(self) -> None:
        table = MarginTable((100,), (1, PROBABILITY - 1), (1, PROBABILITY - 1))
        assert drift_log_e(np.zeros(256), table) <= 0
