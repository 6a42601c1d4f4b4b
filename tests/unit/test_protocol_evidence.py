"""Evidence: margins of honest and cheating samplers, e-values, wealth, calibrations (R-34 to R-36)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retally.errors import BadRequest
from retally.protocol.calibration import PROBABILITY, Bins, Calibration, MarginTable
from retally.protocol.case import VerdictKind
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.evidence import (
    JOB_CLIP,
    LARGEST_CLIP,
    JobEvidence,
    combine,
    largest_log_e,
    margin_log_e,
    on_chain,
    owner_verdict,
    owner_wealth_log,
    replay_point,
    verdict_of,
)
from retally.protocol.margins import CLIP, Replayed, robust_margins
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import log_softmax, sample_token

VOCABULARY, TOKENS, EOS = 400, 48, (0,)
SEED = keccak(b"seed")
PAYERS = [SigningKey(keccak(bytes([i]))).address for i in range(1, 6)]
TABLE = MarginTable(
    edges=(1, 200_000, 1_000_000),
    honest=(PROBABILITY, 10_000_000, 1_000_000, 100_000),
    cheat=(700_000_000, 100_000_000, 100_000_000, 100_000_000),
)
LARGEST = Bins(
    edges=(300_000, 2_000_000), honest=(PROBABILITY, 10_000_000, 10_000), cheat=(0, 250_000_000, 750_000_000)
)
WITH_LARGEST = replace(TABLE, largest=LARGEST, largest_tokens=256)
CALIBRATION = Calibration(
    model_id=keccak(b"model"),
    node_profile=keccak(b"node"),
    verifier_profile=keccak(b"verifier"),
    tables={"seeded": TABLE, "greedy": TABLE},
    ranges={"temperature": (500_000, ONE), "topP": (900_000, ONE), "outputTokens": (1, 100)},
    measured={"jobs": 1},
)


@dataclass(frozen=True)
class Rows:
    """Scores as an engine returns them."""

    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]


def params(**changes: Any) -> JobParams:
    return JobParams(max_tokens=TOKENS, template_date="2026-01-01", **changes)


def run(
    asked: JobParams, *, served: JobParams | None = None, seed: bytes = SEED, weights: float = 0.0, kernels: float = 0.0
) -> tuple[Replayed, Rows]:
    """An answer sampled with what was served, and the scores of the genuine model."""
    rng = np.random.default_rng(7)
    output: list[int] = []
    rows = []
    for position in range(TOKENS):
        logits = (rng.normal(size=VOCABULARY) * 3).astype(np.float32)
        cheap = logits + rng.normal(size=VOCABULARY).astype(np.float32) * np.float32(weights)
        output.append(sample_token(cheap, served or asked, seed, position, [1, 2], output, EOS))
        noisy = log_softmax((logits + rng.normal(size=VOCABULARY) * kernels).astype(np.float32))
        order = np.argsort(-noisy)[:64]
        rows.append((order, noisy[order]))
    ids, logprobs = (np.array(column) for column in zip(*rows, strict=True))
    scores = Rows(ids.astype(np.int32), logprobs.astype(np.float32))
    return Replayed(asked, SEED, [1, 2], [], output, EOS), scores


SHAPES = [
    {},
    {"temperature": 0},
    {"temperature": 700_000, "top_p": 900_000},
    {"top_k": 40, "top_p": 950_000},
    {"temperature": 1_500_000, "min_p": 30_000},
    {"frequency_penalty": 500_000, "repetition_penalty": 1_200_000, "min_tokens": 9},
]


class TestRobustMargins:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_honest_answers_have_none(self, shape: dict[str, int]) -> None:
        assert not robust_margins(*run(params(**shape))).any()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_kernels_noise_stays_small(self, shape: dict[str, int]) -> None:
        margins = robust_margins(*run(params(**shape), kernels=0.01))
        assert margins.max() < 0.2
        assert (margins > 0).mean() < 0.1

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_other_weights_show(self, shape: dict[str, int]) -> None:
        margins = robust_margins(*run(params(**shape), weights=1.0))
        assert (margins > 0.2).mean() > 0.05

    def test_another_seed_shows(self) -> None:
        assert robust_margins(*run(params(), seed=keccak(b"other"))).mean() > 1

    def test_another_temperature_shows(self) -> None:
        margins = robust_margins(*run(params(), served=params(temperature=500_000)))
        assert (margins > 0.2).sum() >= 3

    def test_a_spliced_token_shows(self) -> None:
        replayed, scores = run(params(top_p=900_000))
        output = [*replayed.output_ids]
        output[20] = next(token for token in range(VOCABULARY) if token not in scores.top_ids[20])
        margins = robust_margins(replace(replayed, output_ids=output), scores)
        assert margins[20] > 3
        assert margins.max() <= CLIP

    def test_forbidden_ends_cost_the_clip(self) -> None:
        replayed, scores = run(params(min_tokens=9))
        margins = robust_margins(replace(replayed, output_ids=[EOS[0], *replayed.output_ids[1:]]), scores)
        assert margins[0] == CLIP

    def test_refuses_rows_that_do_not_fit(self) -> None:
        replayed, scores = run(params())
        with pytest.raises(ValueError, match="rows of scores"):
            robust_margins(replace(replayed, output_ids=replayed.output_ids[1:]), scores)


class TestJobEvidence:
    def test_clean_answers_speak_for_the_node(self) -> None:
        log_e = margin_log_e(np.zeros(64), TABLE)
        assert -4 < log_e < 0
        assert verdict_of(log_e) == VerdictKind.MATCH

    def test_is_clipped_by_token_and_by_job(self) -> None:
        one = margin_log_e(np.array([5.0]), TABLE)
        assert one <= math.log(0.5 * 1000 + 0.5)
        assert margin_log_e(np.full(64, 5.0), TABLE) == JOB_CLIP

    def test_expectation_under_honest_bounds_is_at_most_one(self) -> None:
        # E[e] for one token, whatever honest distribution below the bounds: the rest falls into the first bin.
        shares = np.array(TABLE.honest, dtype=float) / PROBABILITY
        shares[0] = 1 - shares[1:].sum()
        points = np.array([0.0, 0.1, 0.5, 3.0])
        mean = sum(s * math.exp(margin_log_e(np.array([p]), TABLE)) for s, p in zip(shares, points, strict=True))
        assert mean <= 1

    def test_a_table_for_the_largest_margin_sees_one_token(self) -> None:
        # one token of 256 says little among all of them and much by itself.
        spliced = np.zeros(256)
        spliced[100] = 5.0
        assert margin_log_e(spliced, TABLE) < 5
        assert margin_log_e(spliced, WITH_LARGEST) == pytest.approx(LARGEST_CLIP - math.log(2), abs=0.01)
        assert verdict_of(margin_log_e(spliced, WITH_LARGEST)) == VerdictKind.MISMATCH

    def test_a_longer_job_counts_as_several(self) -> None:
        # it begins so many parts of the length that the bins hold for, and each may be the odd one.
        bins = replace(LARGEST, cheat=(0, 250_000_000, 75_000_000))
        table = replace(TABLE, largest=bins, largest_tokens=100)
        assert largest_log_e(5.0, bins, 3) == pytest.approx(largest_log_e(5.0, bins) - math.log(3))
        spliced = [np.array([5.0, *[0.0] * (length - 1)]) for length in (100, 101, 250)]
        alone, twice, thrice = (margin_log_e(job, table) for job in spliced)
        assert alone > twice > thrice

    def test_what_the_largest_margin_says_is_clipped_and_halves_the_rest(self) -> None:
        assert largest_log_e(10.0, LARGEST) == LARGEST_CLIP
        assert largest_log_e(0.4, LARGEST) == pytest.approx(math.log(25))
        assert largest_log_e(0.1, LARGEST) == -math.inf
        clean = np.zeros(64)
        assert margin_log_e(clean, WITH_LARGEST) == pytest.approx(margin_log_e(clean, TABLE) - math.log(2))

    def test_two_jobs_of_one_odd_token_each_do_not_slash(self) -> None:
        log_e = margin_log_e(np.array([5.0]), WITH_LARGEST)
        jobs = [JobEvidence(payer, log_e) for payer in PAYERS[:3]]
        assert owner_verdict(owner_wealth_log(jobs[:2], 0)) == VerdictKind.INCONCLUSIVE
        assert owner_verdict(owner_wealth_log(jobs, 0)) == VerdictKind.MISMATCH

    @pytest.mark.parametrize("tokens", [1, 2, 3])
    def test_expectation_with_the_largest_margin_is_at_most_one(self, tokens: int) -> None:
        # As unlucky as both bounds allow: a token's shares, and the chance that a job reaches a bin of the largest.
        points = [0.0, 0.1, 0.5, 3.0]
        reach = np.array(LARGEST.honest[1:], dtype=float) / PROBABILITY
        token = np.array(TABLE.honest[1:], dtype=float) / PROBABILITY
        chances = [0.0, token[0], min(token[1], reach[0] / tokens), min(token[2], reach[1] / tokens)]
        chances[0] = 1 - sum(chances)
        mean = 0.0
        for job in itertools.product(range(len(points)), repeat=tokens):
            share = math.prod(chances[index] for index in job)
            mean += share * math.exp(margin_log_e(np.array([points[index] for index in job]), WITH_LARGEST))
        assert 0.3 < mean <= 1

    def test_re_executors_must_agree(self) -> None:
        assert combine([12.0, -0.5]) == -0.5
        assert combine([]) == 0.0

    @pytest.mark.parametrize(
        ("log_e", "verdict"),
        [(-0.1, VerdictKind.MATCH), (0.0, VerdictKind.INCONCLUSIVE), (9.3, VerdictKind.MISMATCH)],
    )
    def test_has_three_verdicts(self, log_e: float, verdict: VerdictKind) -> None:
        assert verdict_of(log_e) == verdict

    def test_outside_the_calibrated_ranges_nothing_is_said(self) -> None:
        for shape in (
            {"temperature": 400_000},
            {"top_p": 500_000},
            {"frequency_penalty": 1},
            {"logit_bias": ((1, 5),)},
        ):
            found = replay_point(*run(params(**shape), weights=1.0), CALIBRATION)
            assert (found.log_e, found.verdict) == (0.0, VerdictKind.INCONCLUSIVE)
        assert replay_point(*run(params(), weights=1.0), None).verdict == VerdictKind.INCONCLUSIVE

    def test_inside_them_cheats_and_honest_part(self) -> None:
        assert replay_point(*run(params()), CALIBRATION).verdict == VerdictKind.MATCH
        assert replay_point(*run(params(), weights=1.0), CALIBRATION).verdict == VerdictKind.MISMATCH
        assert replay_point(*run(params(temperature=0), weights=1.0), CALIBRATION).verdict == VerdictKind.MISMATCH


class TestOwnerWealth:
    def test_two_payers_jobs_convict(self) -> None:
        jobs = [JobEvidence(payer, JOB_CLIP) for payer in PAYERS[:2]]
        assert owner_verdict(owner_wealth_log(jobs, 0)) == VerdictKind.MISMATCH

    def test_one_job_never_does(self) -> None:
        assert owner_verdict(owner_wealth_log([JobEvidence(PAYERS[0], 100.0)], 0)) == VerdictKind.INCONCLUSIVE

    def test_one_payer_adds_only_so_much(self) -> None:
        few = owner_wealth_log([JobEvidence(PAYERS[0], JOB_CLIP)] * 3, 0)
        many = owner_wealth_log([JobEvidence(PAYERS[0], JOB_CLIP)] * 30, 0)
        assert many <= few + 1.7

    def test_points_not_shown_cost(self) -> None:
        jobs = [JobEvidence(payer, JOB_CLIP) for payer in PAYERS[:2]]
        assert owner_wealth_log(jobs, 5) < owner_wealth_log(jobs, 0)
        # Whoever shows 2 bad ones of 100,000 has shown nothing.
        assert owner_verdict(owner_wealth_log(jobs, 100_000)) != VerdictKind.MISMATCH

    def test_honest_owners_lose_wealth(self) -> None:
        jobs = [JobEvidence(PAYERS[i % 5], -0.5) for i in range(100)]
        assert owner_verdict(owner_wealth_log(jobs, 0)) == VerdictKind.MATCH

    def test_is_integer_on_chain(self) -> None:
        assert on_chain(-0.5) == -500_000


class TestCalibration:
    def test_survives_the_round_trip(self) -> None:
        for table in (TABLE, WITH_LARGEST):
            one = replace(CALIBRATION, tables={"seeded": table})
            again = Calibration.from_json(one.to_json())
            assert (again, again.hash) == (one, one.hash)
        assert "largest" not in TABLE.to_json()

    @pytest.mark.parametrize(
        "change",
        [
            {"edges": [0, 1, 2]},
            {"edges": [2, 1, 3]},
            {"honest": [1, 1, 1]},
            {"honest": [0, 1, 1, 1]},
            {"cheat": [PROBABILITY, 1, 0, 0]},
            {"cheat": [1.5, 0, 0, 0]},
        ],
    )
    def test_refuses_tables_that_prove_nothing(self, change: dict[str, object]) -> None:
        with pytest.raises(BadRequest):
            MarginTable.from_json({**TABLE.to_json(), **change})

    def test_refuses_shares_that_were_scaled_down(self) -> None:
        scaled = {"honest": [PROBABILITY - 11_200_000, 10_000_000, 1_000_000, 100_000]}
        with pytest.raises(BadRequest, match="weigh 999900000 of 1000000000"):
            MarginTable.from_json({**TABLE.to_json(), **scaled})

    def test_refuses_a_falling_ratio_where_shares_weigh_one(self) -> None:
        honest = (PROBABILITY - 11_100_000, 10_000_000, 1_000_000, 100_000)
        rises = MarginTable(TABLE.edges, honest, (PROBABILITY // 2, 100_000_000, 100_000_000, 100_000_000))
        assert MarginTable.from_json(rises.to_json()) == rises
        # By rounding a share down a ratio may fall, by a part of that one share.
        MarginTable(TABLE.edges, honest, (PROBABILITY // 2, 99_999_999, 9_999_999, 999_999))
        with pytest.raises(BadRequest, match="falls at bin 2"):
            MarginTable.from_json({**rises.to_json(), "cheat": [PROBABILITY // 2, 100_000_000, 1_000_000, 100_000_000]})
