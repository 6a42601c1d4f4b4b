"""Answers of a given form in a real engine: they fit, replay names their tokens, and they can be continued anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.sampler_jobs import gather

from retally.errors import EngineUnavailable
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling, Scores
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.grammar import AnswerMasks
from retally.protocol.margins import MaskedScores, Replayed, token_margins
from retally.protocol.params import JobParams
from retally.protocol.structure import ResponseFormat, ToolChoice, grammar_of

pytestmark = pytest.mark.engine

NAME = "retally/devnet-4m"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "kind": {"enum": ["module", "function", "class"]},
        "lines": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["name", "kind", "lines", "tags"],
}
TOOLS = json.dumps([{"type": "function", "function": {"name": "describe", "parameters": SCHEMA}}])
FORMS: tuple[dict[str, Any], ...] = (
    {"response_format": ResponseFormat("json_schema", json.dumps(SCHEMA))},
    {"tool_choice": ToolChoice("required", parallel=False)},
)
RULES: tuple[dict[str, int], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1_300_000},
    {"temperature": 700_000, "top_p": 900_000},
    {"top_k": 20},
    {"top_k": 40, "frequency_penalty": 500_000},
)
TOKENS = 160


@dataclass(frozen=True)
class Formed:
    """A job of a given form and what the engine made of it."""

    params: JobParams
    grammar: str
    seed: bytes
    prompt: list[int]
    answer: list[int]
    scores: Scores

    def margins(self, answer: list[int], masks: AnswerMasks) -> list[float]:
        replayed = Replayed(self.params, self.seed, self.prompt, [], answer, (1,))
        return [token.margin for token in token_margins(replayed, MaskedScores(self.scores, masks))]


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> ChatFormat:
    return ChatFormat.load(model_dir)


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[VllmEngine]:
    opened = VllmEngine(engine_url, NAME)
    yield opened
    await opened.close()


async def answer_of(engine: VllmEngine, job: Formed, prefix: list[int]) -> list[int]:
    sampling = EngineSampling(
        params=job.params,
        seed=job.seed,
        position=len(prefix),
        eos_ids=(1,),
        max_new_tokens=TOKENS - len(prefix),
        grammar=job.grammar,
    )
    return [token async for chunk in engine.generate([*job.prompt, *prefix], sampling) for token in chunk.ids]


async def formed(engine: VllmEngine, chat: ChatFormat, number: int, **changes: Any) -> Formed:
    form, rule = FORMS[number % len(FORMS)], RULES[number % len(RULES)]
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": f"Describe part {number} of os."}]}
    if "tool_choice" in form:
        prompt["tools"] = TOOLS
    params = JobParams(max_tokens=TOKENS, template_date="2026-01-01", **form, **rule)
    ids = chat.render(prompt, "2026-01-01")
    empty = Scores(0, *(np.empty(0),) * 3)
    job = Formed(params, changes.get("grammar", grammar_of(params, prompt)), bytes([number] * 32), ids, [], empty)
    answer = await answer_of(engine, job, [])
    scores = await engine.score([*ids, *answer], len(ids))
    return Formed(params, grammar_of(params, prompt), job.seed, ids, answer, scores)


@pytest.fixture(scope="module")
def jobs(engine_url: str, chat: ChatFormat) -> list[Formed]:
    """Served and scored once for all tests, in one batch with answers that ignore their form."""

    async def serve() -> list[Formed]:
        engine = VllmEngine(engine_url, NAME)
        free = [formed(engine, chat, 100 + number, grammar="") for number in range(2)]
        served = await gather(*(formed(engine, chat, number) for number in range(12)), *free)
        await engine.close()
        return served

    return asyncio.run(serve())


def masks_of(chat: ChatFormat, job: Formed) -> AnswerMasks:
    return AnswerMasks(chat.grammars.masks(job.grammar, (1,), [], job.answer))


async def test_answers_fit_their_form(chat: ChatFormat, jobs: list[Formed]) -> None:
    for job in jobs[:12]:
        assert job.answer[-1] == 1
        text = chat.decode(job.answer)
        value = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        value = value.get("arguments", value)
        assert list(value) == SCHEMA["required"]
        assert value["kind"] in ("module", "function", "class")
        assert 0 <= value["lines"] <= 999
        assert len(value["tags"]) <= 3


async def test_replay_of_an_honest_answer_has_no_margins(chat: ChatFormat, jobs: list[Formed]) -> None:
    for job in jobs[:12]:
        masks = masks_of(chat, job)
        assert masks.first_forbidden(job.answer) is None
        assert max(job.margins(job.answer, masks)) < 0.15
    assert sum(sum(job.margins(job.answer, masks_of(chat, job))) for job in jobs[:12]) < 0.3


async def test_an_engine_that_ignores_the_form_is_seen(chat: ChatFormat, jobs: list[Formed]) -> None:
    for job in jobs[12:]:
        assert masks_of(chat, job).first_forbidden(job.answer) == 0


async def test_another_seed_is_seen_under_the_form(chat: ChatFormat, jobs: list[Formed]) -> None:
    sampled = [job for job in jobs[:12] if job.params.temperature]
    other = [Formed(j.params, j.grammar, b"\x63" * 32, j.prompt, j.answer, j.scores) for j in sampled]
    # what is above 0.5 must hold under the wide slack too, and is 0.5 at least.
    large = [sum(margin >= 0.5 for margin in job.margins(job.answer, masks_of(chat, job))) for job in other]
    assert all(large)
    assert sum(large) > 3 * len(other)


async def test_an_answer_goes_on_from_any_token(engine: VllmEngine, jobs: list[Formed]) -> None:
    cuts = [(job, cut) for job in jobs[:4] for cut in (1, len(job.answer) // 2, len(job.answer) - 1)]
    rests = await gather(*(answer_of(engine, job, job.answer[:cut]) for job, cut in cuts))
    assert rests == [job.answer[cut:] for job, cut in cuts]


async def test_the_engine_is_asked_for_a_form_before_it_is_taken(engine: VllmEngine) -> None:
    info = await engine.check()
    assert info.has_sampler, info.problems


async def test_a_form_without_an_end_is_refused_at_the_door(engine: VllmEngine, jobs: list[Formed]) -> None:
    sampling = EngineSampling(params=jobs[0].params, seed=bytes(32), max_new_tokens=4, grammar=jobs[0].grammar)
    with pytest.raises(EngineUnavailable, match="end-of-sequence"):
        _ = [chunk async for chunk in engine.generate([5, 6], sampling)]
    assert await answer_of(engine, jobs[0], jobs[0].answer[:-1]) == [1]
