"""The batched sampler names what the readable one names, rule by rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from retally.inference.torch_sampler import Row, choose, noise
from retally.protocol.params import JobParams
from retally.protocol.sampler import noise as numpy_noise
from retally.protocol.sampler import noise_key, sample_token

VOCABULARY = 1500
RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 400_000, "top_p": 900_000},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 1000, "top_p": 950_000},
    {"top_k": VOCABULARY + 5},
    {"min_p": 50_000},
    {"min_p": 20_000, "top_p": 990_000, "temperature": 1_500_000},
    {"top_p": 999_999},
    {"top_p": 1},
    {"repetition_penalty": 1_300_000, "frequency_penalty": 500_000, "presence_penalty": -300_000},
    {"logit_bias": ((5, 9_000_000), (7, -100_000_000), (VOCABULARY + 3, 1)), "min_tokens": 50},
    {"temperature": 0, "repetition_penalty": 1_200_000, "min_tokens": 60},
]


def params(**fields: Any) -> JobParams:
    return JobParams(max_tokens=64, template_date="2026-01-01", **fields)


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("has_ties", [False, True])
def test_agrees_with_its_numpy_twin(sharpness: float, has_ties: bool) -> None:
    source = np.random.default_rng(int(sharpness) + has_ties)
    for _ in range(8):
        logits = (source.normal(size=(len(RULES), VOCABULARY)) * sharpness).astype(np.float32)
        if has_ties:
            logits = np.round(logits * 4) / 4
        rows, expected = [], []
        for fields, row in zip(RULES, logits, strict=True):
            prompt, prefix, output = (
                source.integers(0, VOCABULARY, size).tolist() for size in source.integers(0, 40, 3)
            )
            rows.append(Row(params(**fields), source.bytes(32), (1, 2), prompt, prefix, output))
            answer = prefix + output
            expected.append(
                sample_token(row, params(**fields), rows[-1].seed, len(answer), prompt, answer, (1, 2))
            )  # fmt: skip
        assert choose(torch.tensor(logits), rows).tolist() == expected


def test_noise_agrees_to_fp32() -> None:
    keys = [noise_key(bytes([n]) * 32, n) for n in range(20)]
    ids = torch.arange(100_000)
    for n, row in enumerate(noise(keys, ids).numpy()):
        twin = numpy_noise(bytes([n]) * 32, n, np.arange(100_000))
        assert (row != twin).mean() < 1e-4
        assert np.abs(row - twin).max() < 1e-6


def test_placeholders_count_for_the_position_and_not_for_penalties() -> None:
    row = Row(params(frequency_penalty=100_000), b"s" * 32, (), [1], [2, 2], [3, -1])
    assert row.position == 4
    assert row.answer_ids == [2, 2, 3]
