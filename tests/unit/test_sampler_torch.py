"""The batched sampler names what the readable one names, rule by rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.sampler_cases import params, random_batch

from retally.inference.sampler_noise import noise
from retally.inference.sampler_rows import Row
from retally.inference.torch_sampler import choose
from retally.protocol.sampler import noise as numpy_noise
from retally.protocol.sampler import noise_key


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("has_ties", [False, True])
def test_agrees_with_its_numpy_twin(sharpness: float, has_ties: bool) -> None:
    source = np.random.default_rng(int(sharpness) + has_ties)
    for _ in range(8):
        logits, rows, expected = random_batch(source, sharpness, has_ties)
        assert choose(logits, rows).tolist() == expected


def test_computes_in_fp32_whatever_torchs_default_is() -> None:
    logits, rows, expected = random_batch(np.random.default_rng(12), 3.0, has_ties=False)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert choose(logits, rows).tolist() == expected
    finally:
        torch.set_default_dtype(usual)


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
    tally = row.tally()
    assert dict(zip(tally.ids.tolist(), tally.counts.tolist(), strict=True)) == {2: 2, 3: 1}
