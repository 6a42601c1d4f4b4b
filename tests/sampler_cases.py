"""Random rows under every rule, with what the readable sampler names; shared by tests on processors and on GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from retally.inference.sampler_rows import Row
from retally.protocol.params import JobParams
from retally.protocol.sampler import sample_token

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


def random_batch(
    source: np.random.Generator, sharpness: float, has_ties: bool
) -> tuple[torch.Tensor, list[Row], list[int]]:
    """Return logits, one row for each rule, and the tokens that must be named."""
    logits = (source.normal(size=(len(RULES), VOCABULARY)) * sharpness).astype(np.float32)
    if has_ties:
        logits = np.round(logits * 4) / 4
    rows, expected = [], []
    for fields, row in zip(RULES, logits, strict=True):
        prompt, prefix, output = (source.integers(0, VOCABULARY, size).tolist() for size in source.integers(0, 40, 3))
        rows.append(Row(params(**fields), source.bytes(32), (1, 2), prompt, prefix, output))
        answer = prefix + output
        expected.append(sample_token(row, params(**fields), rows[-1].seed, len(answer), prompt, answer, (1, 2)))
    return torch.tensor(logits), rows, expected
