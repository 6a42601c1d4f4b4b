"""The normative sampler: vectors, frequencies, ties, penalties (R-26 to R-30)."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from retally.protocol.params import JobParams
from retally.protocol.sampler import adjusted, allowed, choose, fraction, noise, noise_key, sample_token, uniforms

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/sampler.json").read_text())
SEED = b"\x07" * 32
DRAWS = 20_000


def params(**fields: Any) -> JobParams:
    return JobParams(max_tokens=64, template_date="2026-01-01", **fields)


def noise_bits(seed: bytes, position: int, token: int) -> int:
    return int(uniforms(noise_key(seed, position), [token])[0] * 2.0**53 - 0.5)


class TestVectors:
    @pytest.mark.parametrize("case", VECTORS["noise"])
    def test_uniform_is_bit_exact_and_noise_rounds_to_the_same_fp32(self, case: dict[str, Any]) -> None:
        seed = bytes.fromhex(case["seed"])
        assert uniforms(noise_key(seed, case["position"]), [case["id"]])[0] == (int(case["bits"]) + 0.5) * 2.0**-53
        (expected,) = struct.unpack(">f", bytes.fromhex(case["gumbel"]))
        assert noise(seed, case["position"], [case["id"]])[0] == pytest.approx(expected, rel=1e-7)

    @pytest.mark.parametrize("case", VECTORS["choices"])
    def test_names_the_token(self, case: dict[str, Any]) -> None:
        rule = JobParams.from_json(case["params"])
        ids = np.array(case["ids"], dtype=np.int64)
        logprobs = np.array(case["logprobs"], dtype=np.float32)
        around = (case["prompt"], case["answer"], case["eos"])
        seed, position = bytes.fromhex(case["seed"]), len(case["answer"])
        assert choose(logprobs, ids, rule, seed, position, *around) == case["token"]
        if rule.temperature:
            scores = adjusted(logprobs, ids, rule, *around) / fraction(rule.temperature)
            assert ids[allowed(scores, ids, rule)].tolist() == case["kept"]


class TestFrequencies:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"temperature": 700_000},
            {"temperature": 1_800_000},
            {"top_k": 7},
            {"top_p": 800_000},
            {"min_p": 60_000},
            {"top_k": 20, "top_p": 900_000, "min_p": 20_000, "temperature": 1_300_000},
        ],
    )
    def test_fits_the_softmax_of_what_is_kept(self, fields: dict[str, int]) -> None:
        rule = params(**fields)
        logits = np.random.default_rng(4).normal(0, 1.5, 40).astype(np.float32)
        ids = np.arange(40, dtype=np.int64)
        kept = expected_tokens(logits, rule)
        drawn = Counter(choose(logits, ids, rule, SEED, n, [], [], []) for n in range(DRAWS))
        assert set(drawn) <= set(kept)
        weights = np.exp(logits[kept].astype(np.float64) / (rule.temperature / 1e6))
        result = chisquare([drawn[token] for token in kept], DRAWS * weights / weights.sum())
        assert result.pvalue > 0.001

    def test_noise_of_other_positions_and_seeds_is_unrelated(self) -> None:
        ids = np.arange(5000)
        first = noise(SEED, 0, ids)
        for other in (noise(SEED, 1, ids), noise(b"\x08" * 32, 0, ids)):
            assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


def expected_tokens(logits: np.ndarray, rule: JobParams) -> list[int]:
    """Filter by the textbook, with floats and sets."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if rule.top_k:
        order = order[: rule.top_k]
    weights = np.exp(logits[order].astype(np.float64) / (rule.temperature / 1e6))
    probabilities = weights / weights.sum()
    count = int(np.searchsorted(np.cumsum(probabilities), rule.top_p / 1e6)) + 1
    order = order[: min(count, len(order))]
    return [t for t, p in zip(order, probabilities, strict=False) if p >= rule.min_p / 1e6 * probabilities[0]]


class TestTies:
    IDS = np.array([9, 4, 30, 2], dtype=np.int64)

    def test_greedy_takes_the_smallest_id(self) -> None:
        equal = np.full(4, -1.0, dtype=np.float32)
        assert choose(equal, self.IDS, params(temperature=0), SEED, 0, [], [], []) == 2

    def test_top_k_keeps_smaller_ids_first(self) -> None:
        equal = np.full(4, -1.0, dtype=np.float32)
        assert self.IDS[allowed(equal, self.IDS, params(top_k=2))].tolist() == [4, 2]

    def test_top_p_keeps_the_token_that_crosses(self) -> None:
        halves = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
        ids = np.arange(4, dtype=np.int64)
        assert allowed(halves, ids, params(top_p=600_000)).tolist() == [True, True, False, False]
        assert allowed(halves, ids, params(top_p=1)).tolist() == [True, False, False, False]

    def test_min_p_keeps_the_best_alone_at_one(self) -> None:
        scores = np.array([-3.0, -1.0, -2.0], dtype=np.float32)
        assert allowed(scores, np.arange(3, dtype=np.int64), params(min_p=1_000_000)).tolist() == [False, True, False]


class TestPenalties:
    IDS = np.arange(5, dtype=np.int64)
    FLAT = np.full(5, -2.0, dtype=np.float32)

    def test_repetition_counts_prompt_and_answer(self) -> None:
        scores = adjusted(self.FLAT, self.IDS, params(repetition_penalty=2_000_000), [1], [3, 3], [])
        assert scores.tolist() == [-2.0, -4.0, -2.0, -4.0, -2.0]

    def test_repetition_shrinks_a_score_lifted_above_zero(self) -> None:
        rule = params(repetition_penalty=2_000_000, logit_bias=((1, 5_000_000),))
        assert adjusted(self.FLAT, self.IDS, rule, [1], [], [])[1] == 1.5

    def test_frequency_and_presence_count_the_answer_alone(self) -> None:
        rule = params(frequency_penalty=500_000, presence_penalty=250_000)
        scores = adjusted(self.FLAT, self.IDS, rule, [0, 1], [3, 3, 4], [])
        assert scores.tolist() == [-2.0, -2.0, -2.0, -3.25, -2.75]

    def test_min_tokens_forbids_the_end_until_reached(self) -> None:
        rule = params(min_tokens=2)
        assert adjusted(self.FLAT, self.IDS, rule, [], [4], [2])[2] == -np.inf
        assert adjusted(self.FLAT, self.IDS, rule, [], [4, 4], [2])[2] == -2.0

    def test_leaves_its_input_alone(self) -> None:
        adjusted(self.FLAT, self.IDS, params(logit_bias=((0, 1_000_000),), min_tokens=3), [], [], [1])
        assert self.FLAT.tolist() == [-2.0] * 5


def test_a_continuation_draws_what_the_whole_answer_would_have_drawn() -> None:
    rows = np.random.default_rng(9).normal(0, 2, (30, 50)).astype(np.float32)
    rule = params(frequency_penalty=300_000, top_p=900_000)
    whole: list[int] = []
    for position, row in enumerate(rows):
        whole.append(sample_token(row, rule, SEED, position, [7], whole, [0]))
    for cut in (1, 13, 29):
        answer = whole[:cut]
        for position in range(cut, 30):
            answer.append(sample_token(rows[position], rule, SEED, position, [7], answer, [0]))
        assert answer == whole
