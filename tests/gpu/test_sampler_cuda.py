"""The batched sampler on a GPU names what the readable one names."""

from __future__ import annotations

import numpy as np
import pytest
from tests.sampler_cases import random_batch

from retally.inference.torch_sampler import choose

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("has_ties", [False, True])
def test_agrees_with_its_numpy_twin(sharpness: float, has_ties: bool) -> None:
    source = np.random.default_rng(int(sharpness) + has_ties)
    for _ in range(20):
        logits, rows, expected = random_batch(source, sharpness, has_ties)
        assert choose(logits.cuda(), rows).tolist() == expected
