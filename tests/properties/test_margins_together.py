"""Many tokens weighed together have the margins that each has by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.margins_one_by_one import margins_one_by_one

from retally.inference.engine import Scores
from retally.protocol import margins
from retally.protocol.grammar import AnswerMasks, Words
from retally.protocol.margins import NARROW, TOP, MaskedScores, Replayed, ReplayScores, token_margins
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import log_softmax

EOS = (2, 5)
PROMPT = tuple(range(20))

shapes = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, ONE, 500_000, 1_300_000, 2 * ONE]),
        "top_p": st.sampled_from([ONE, 950_000, 500_000, 10_000]),
        "top_k": st.sampled_from([0, 1, 5, 50, 64, 65, 100]),
        "min_p": st.sampled_from([0, 20_000]),
        "min_tokens": st.sampled_from([0, 3, 400]),
        "repetition_penalty": st.sampled_from([ONE, 1_200_000]),
        "frequency_penalty": st.sampled_from([0, 500_000, -500_000]),
        "presence_penalty": st.sampled_from([0, 300_000]),
        "logit_bias": st.sampled_from([(), ((3, 4_000_000), (7, -100_000_000))]),
    }
)


class World:
    """Random scores of a random answer: likely tokens and others, ties, a prefix, masks."""

    def __init__(self, seed: int, tokens: int, shape: dict[str, Any]) -> None:
        self.chance = np.random.default_rng(seed)
        self.vocabulary = int(self.chance.choice([70, 300, 4096]))
        logits = self.chance.normal(0, self.chance.choice([0.05, 1, 4]), (tokens, self.vocabulary))
        if self.chance.random() < 0.3:
            logits = np.round(4 * logits) / 4
        rows = np.array([log_softmax(row) for row in logits.astype(np.float32)])
        ranked = np.argsort(-rows, axis=1, kind="stable")[:, :TOP]
        top = np.take_along_axis(rows, ranked, axis=1)
        self.answer = [self._token(ids) for ids in ranked]
        params = JobParams(max_tokens=400, template_date="2026-01-01", **shape)
        prefix = self.answer[: int(self.chance.choice([0, 3]))]
        self.replayed = Replayed(params, self.chance.bytes(32), PROMPT, prefix, self.answer, EOS)
        self.scores = Scores(len(PROMPT), ranked.astype(np.int32), top, top[:, 0])

    def _token(self, likeliest: Any) -> int:
        if self.chance.random() < 0.1:
            return int(self.chance.integers(0, self.vocabulary))
        return int(likeliest[min(TOP - 1, int(self.chance.exponential(3)))])

    def masked(self) -> ReplayScores:
        return MaskedScores(self.scores, AnswerMasks([self._mask() for _ in self.answer]))

    def _mask(self) -> Words | None:
        if self.chance.random() < 0.2:
            return None
        return self.chance.integers(-(2**31), 2**31, (self.vocabulary + 31) // 32).astype(np.int32)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32), tokens=st.integers(1, 40), shape=shapes, has_form=st.booleans(), is_exact=st.booleans()
)
def test_each_margin_is_that_of_the_token_alone(
    seed: int, tokens: int, shape: dict[str, Any], has_form: bool, is_exact: bool
) -> None:
    world = World(seed, tokens, shape)
    scores = world.masked() if has_form else world.scores
    slack = 1e-9 if is_exact else NARROW
    assert token_margins(world.replayed, scores, slack) == margins_one_by_one(world.replayed, scores, slack)


@pytest.mark.parametrize("tokens", [margins.ROWS_AT_ONCE - 1, 2 * margins.ROWS_AT_ONCE + 1])
def test_answers_longer_than_one_batch_are_whole(tokens: int) -> None:
    world = World(7, tokens, {"temperature": ONE, "top_p": 950_000, "min_tokens": 300})
    found = token_margins(world.replayed, world.scores)
    assert found == margins_one_by_one(world.replayed, world.scores, NARROW)
    assert len(found) == tokens


@pytest.mark.parametrize("temperature", [0, ONE])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e38, -1e38])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_no_engine_gives_make_no_other_margin(value: float, temperature: int) -> None:
    """A re-executor may write what it likes: ids twice or outside the vocabulary, infinities."""
    world = World(11, 20, {"temperature": temperature, "top_p": 900_000})
    top = world.scores.top_logprobs.copy()
    top[world.chance.random(top.shape) < 0.1] = value
    ids = world.chance.integers(-3, 20, top.shape).astype(np.int32)
    scores = Scores(len(PROMPT), ids, top, top[:, 0])
    assert token_margins(world.replayed, scores) == margins_one_by_one(world.replayed, scores, NARROW)
