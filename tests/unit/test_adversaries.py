"""Each dishonest engine tells its one lie and no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from tests.adversaries import cheating_answers as answers
from tests.adversaries import cheating_engines as engines
from tests.adversaries.cheating_node import BOOKS, ENGINES
from tests.adversaries.registry import ADVERSARIES, Act
from tests.adversaries.sibling_audit_node import FlatteringScores
from tests.fakes import FakeEngine

from retally.inference.engine import Engine, EngineChunk, EngineSampling
from retally.protocol.encoding import keccak
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.params import ONE, JobParams

PROMPT = (5, 17, 29, 31, 37, 41, 43, 47)
EOS = (1,)
TOKENS = 48
PARAMS = JobParams(max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01", temperature=ONE, top_p=950_000)
SAMPLING = EngineSampling(params=PARAMS, seed=keccak(b"zoo"), eos_ids=EOS, max_new_tokens=TOKENS)


async def answered(engine: Engine, sampling: EngineSampling = SAMPLING) -> EngineChunk:
    return await answers.whole(engine.generate(PROMPT, sampling))


async def margins(engine: Engine, answer: EngineChunk) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What a replay on the honest model says of a claimed answer."""
    scores = await engine.score([*PROMPT, *answer.ids], len(PROMPT))
    return robust_margins(Replayed(PARAMS, SAMPLING.seed, PROMPT, (), answer.ids, EOS), scores)


@pytest.fixture
def honest() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def other() -> FakeEngine:
    """Weights of another model: the same interface, other logits."""

    class Other(FakeEngine):
        def logits(self, ids: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:  # type: ignore[override]
            return super().logits([token ^ 2 for token in ids])

    return Other()


async def test_an_honest_answer_has_no_margin(honest: FakeEngine) -> None:
    answer = await answered(honest)
    assert len(answer.ids) == TOKENS
    assert not (await margins(honest, answer)).any()


@pytest.mark.parametrize("cheat", ["sampler", "temperature", "greedy", "wrong-seed", "cached", "shorter-of-two"])
async def test_another_sampling_shows_and_scores_stay_true(honest: FakeEngine, cheat: str) -> None:
    made = {
        "sampler": lambda: engines.OtherSampler(honest),
        "temperature": lambda: engines.OtherSampler(honest, 0.9),
        "greedy": lambda: engines.Greedy(honest),
        "wrong-seed": lambda: engines.OtherSeed(honest),
        "cached": lambda: answers.KeptAnswer(honest),
        "shorter-of-two": lambda: answers.ShorterOfTwo(honest),
    }[cheat]()
    assert (await margins(made, await answered(made))).any()
    true = await honest.score([*PROMPT, 7], len(PROMPT))
    np.testing.assert_array_equal((await made.score([*PROMPT, 7], len(PROMPT))).top_logprobs, true.top_logprobs)


async def test_a_nucleus_left_out_changes_no_other_param(honest: FakeEngine) -> None:
    changed = engines.NucleusOff(honest).change(replace(PARAMS, top_k=5, min_p=10_000))
    assert changed == replace(PARAMS, top_k=0, top_p=ONE, min_p=0)


class _Recorded(FakeEngine):
    """Remembers the prompts that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[tuple[int, ...]] = []

    async def generate(self, prompt_ids: object, sampling: EngineSampling) -> AsyncIterator[EngineChunk]:  # type: ignore[override]
        self.prompts.append(tuple(prompt_ids))  # type: ignore[arg-type]
        async for chunk in super().generate(prompt_ids, sampling):  # type: ignore[arg-type]
            yield chunk


async def test_a_hidden_prompt_stands_behind_the_start() -> None:
    engine = _Recorded()
    await answered(engines.HiddenPrompt(engine, 2, [900, 901]))
    assert engine.prompts == [(5, 17, 900, 901, *PROMPT[2:])]


async def test_a_cut_prompt_keeps_its_start_and_what_was_answered_already() -> None:
    engine = _Recorded()
    given = (70, 71)
    sampling = replace(SAMPLING, position=2, max_new_tokens=4)
    await answers.whole(engines.CutPrompt(engine).generate([*PROMPT, *given], sampling))
    assert engine.prompts == [(PROMPT[0], *PROMPT[5:], *given)]


async def test_an_early_stop_ends_at_the_half_with_an_end_token(honest: FakeEngine) -> None:
    true, cut = await answered(honest), await answered(answers.EarlyStop(honest))
    assert cut.ids == (*true.ids[: TOKENS // 2], EOS[0])
    assert cut.finish_reason == "stop"


async def test_a_splice_changes_one_token_and_is_honest_around_it(honest: FakeEngine) -> None:
    spliced = await answered(answers.Splice(honest, 77))
    place = answers.Splice.PLACE
    assert spliced.ids[:place] == (await answered(honest)).ids[:place]
    assert spliced.ids[place] == 77
    assert len(spliced.ids) == TOKENS
    assert np.flatnonzero(await margins(honest, spliced)).tolist() == [place]


async def test_a_kept_answer_is_the_same_for_every_seed(honest: FakeEngine) -> None:
    kept = answers.KeptAnswer(honest)
    first = await answered(kept)
    assert (await answered(kept, replace(SAMPLING, seed=keccak(b"another")))).ids == first.ids


async def test_a_cheat_in_one_of_five_serves_four_honestly(honest: FakeEngine) -> None:
    seldom = engines.Seldom(honest, engines.OtherSeed(honest), 5)
    true = (await answered(honest)).ids
    assert [(await answered(seldom)).ids == true for _ in range(10)] == [True, True, True, True, False] * 2


async def test_weights_that_are_switched_begin_with_the_true_ones(honest: FakeEngine, other: FakeEngine) -> None:
    switched = await answered(answers.SwitchesWeights(honest, other))
    begun = answers.SwitchesWeights.BEGINNING
    assert switched.ids[:begun] == (await answered(honest)).ids[:begun]
    found = await margins(honest, switched)
    assert not found[:begun].any()
    assert found[begun:].any()


async def test_laundered_numbers_are_the_true_models_and_change_no_margin(
    honest: FakeEngine, other: FakeEngine
) -> None:
    laundered, plain = answers.LaunderedNumbers(honest, other), engines.WritesWith(honest, other)
    clean, dirty = await answered(laundered), await answered(plain)
    assert clean.ids == dirty.ids
    scores = await honest.score([*PROMPT, *clean.ids], len(PROMPT))
    np.testing.assert_allclose(clean.logprobs, scores.claimed_logprobs)
    np.testing.assert_array_equal(await margins(honest, clean), await margins(honest, dirty))


async def test_made_up_numbers_change_no_token(honest: FakeEngine, other: FakeEngine) -> None:
    made_up = await answered(answers.MadeUpNumbers(honest, other))
    assert made_up.ids == (await answered(other)).ids
    assert all(answers.SURE <= each <= 0 for each in made_up.logprobs)


async def test_false_scores_make_an_honest_answer_look_like_fraud_and_generate_honestly(honest: FakeEngine) -> None:
    liar = engines.FalseScores(honest)
    answer = await answered(liar)
    assert answer.ids == (await answered(honest)).ids
    assert (await margins(liar, answer)).mean() > 5


async def test_flattering_scores_hide_a_sibling_s_lie_and_generate_honestly(honest: FakeEngine) -> None:
    friend = FlatteringScores(honest)
    lie = await answered(engines.OtherSeed(honest))
    assert (await margins(honest, lie)).any()
    assert not (await margins(friend, lie)).any()
    assert (await answered(friend)).ids == (await answered(honest)).ids


def test_every_node_in_the_registry_is_a_cheat_that_can_be_run() -> None:
    known = ENGINES.keys() | BOOKS.keys()
    acts = {Act.COURT, Act.CLAIM, Act.SILENCE}
    played = [each for each in ADVERSARIES if each.party == "node" and each.act in acts]
    assert {each.cheat or each.name for each in played} <= known
    assert len({each.name for each in ADVERSARIES}) == len(ADVERSARIES)


def test_at_least_three_cheats_were_never_seen_and_none_of_them_was_measured() -> None:
    blind = [each for each in ADVERSARIES if each.blind]
    assert len(blind) >= 3
    assert not any(each.evidence for each in blind)
