"""The sampler in a real engine: replay names its tokens, and an answer can be continued anywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.sampler_jobs import Job, answer_of, gather, margins_of

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling
from retally.inference.sampler_check import replayed
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.params import JobParams

pytestmark = pytest.mark.engine

NAME = "retally/devnet-4m"
JOBS = 200
TOKENS = 128
CUTS = 3
RULES: tuple[dict[str, int], ...] = (
    {"top_k": 50},
    {"top_k": 50, "top_p": 950_000, "temperature": 800_000},
    {"top_k": 60, "min_p": 20_000, "temperature": 1_100_000},
)
TOPICS = (
    "a generator",
    "a module",
    "os.path.join",
    "the GIL",
    "a lambda",
    "list.sort",
    "a context manager",
    "argparse",
)


async def serve_job(engine: VllmEngine, chat: ChatFormat, number: int) -> Job:
    source = random.Random(number)
    question = f"What is {source.choice(TOPICS)}? Variant {number}."
    prompt = chat.render({"messages": [{"role": "user", "content": question}]}, "2026-01-01")
    # Full length: the end is forbidden until then.
    params = JobParams(
        max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01", **RULES[number % len(RULES)]
    )  # fmt: skip
    seed = source.randbytes(32)
    answer, logprobs = await answer_of(engine, params, seed, prompt, [], chat.eos_ids)
    scores = await engine.score([*prompt, *answer], len(prompt))
    return Job(params, seed, prompt, answer, logprobs, scores)


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> ChatFormat:
    return ChatFormat.load(model_dir)


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[VllmEngine]:
    opened = VllmEngine(engine_url, NAME)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def jobs(engine_url: str, chat: ChatFormat) -> list[Job]:
    """Two hundred jobs, served and scored once for all tests."""

    async def serve() -> list[Job]:
        engine = VllmEngine(engine_url, NAME)
        served = await gather(*(serve_job(engine, chat, number) for number in range(JOBS)))
        await engine.close()
        return served

    return asyncio.run(serve())


class TestReplay:
    def test_jobs_are_long_and_undecided(self, jobs: list[Job]) -> None:
        assert {len(job.answer) for job in jobs} == {TOKENS}
        logprobs = np.concatenate([job.scores.top_logprobs for job in jobs]).astype(np.float64)
        # The 64 likeliest tokens alone: a lower bound of the entropy.
        assert float((-np.exp(logprobs) * logprobs).sum(axis=1).mean()) >= 1.0

    def test_names_the_tokens(self, jobs: list[Job], chat: ChatFormat) -> None:
        named = sum(
            a == b
            for job in jobs
            for a, b in zip(
                replayed(job.scores, job.params, job.seed, job.prompt, job.answer, chat.eos_ids),
                job.answer,
                strict=True,
            )
        )
        assert named / (JOBS * TOKENS) >= 0.999

    def test_honest_margins_are_small(self, jobs: list[Job], chat: ChatFormat) -> None:
        margins = np.concatenate([margins_of(job, job.answer, 0, chat) for job in jobs])
        assert margins.max() <= 0.2
        assert (margins > 0).mean() <= 0.001

    def test_another_seed_names_other_tokens(self, jobs: list[Job], chat: ChatFormat) -> None:
        job = jobs[0]
        other = replayed(job.scores, job.params, b"\x01" * 32, job.prompt, job.answer, chat.eos_ids)
        assert sum(a == b for a, b in zip(other, job.answer, strict=True)) < TOKENS * 0.8

    def test_reported_logprobs_are_raw(self, jobs: list[Job]) -> None:
        differences = [np.abs(job.scores.claimed_logprobs - np.array(job.logprobs)) for job in jobs]
        assert float(np.concatenate(differences).max()) < 0.05


class TestContinuation:
    async def test_is_identical_from_any_cut(self, engine: VllmEngine, jobs: list[Job], chat: ChatFormat) -> None:
        source = random.Random(11)
        cuts = [(job, cut) for job in jobs for cut in source.sample(range(1, TOKENS), CUTS)]
        continued = await gather(
            *(answer_of(engine, job.params, job.seed, job.prompt, job.answer[:cut], chat.eos_ids) for job, cut in cuts)
        )
        differing = [
            (job, cut, ids) for (job, cut), (ids, _) in zip(cuts, continued, strict=True) if ids != job.answer[cut:]
        ]
        assert len(differing) <= 0.01 * len(cuts)
        for job, cut, ids in differing:
            at = next(n for n, token in enumerate(ids) if token != job.answer[cut + n])
            assert margins_of(job, [ids[at]], cut + at, chat)[0] <= 0.2


class TestEveryRule:
    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0},
            {"frequency_penalty": 900_000, "presence_penalty": 400_000, "top_k": 20},
            {"repetition_penalty": 1_300_000, "top_k": 20},
            {"logit_bias": ((13, 4_000_000), (290, -100_000_000)), "top_k": 20},
            {"top_p": 1},
        ],
    )
    async def test_margins_stay_small(self, engine: VllmEngine, chat: ChatFormat, fields: dict[str, Any]) -> None:
        params = JobParams(max_tokens=60, template_date="2026-01-01", **fields)
        prompt = chat.render({"messages": [{"role": "user", "content": "What is a list?"}]}, "2026-01-01")
        answer, logprobs = await answer_of(engine, params, b"\x03" * 32, prompt, [], chat.eos_ids)
        scores = await engine.score([*prompt, *answer], len(prompt))
        job = Job(params, b"\x03" * 32, prompt, answer, logprobs, scores)
        assert margins_of(job, answer, 0, chat).max() <= 0.2

    async def test_the_model_ends_its_answers_itself(self, engine: VllmEngine, chat: ChatFormat) -> None:
        params = JobParams(max_tokens=400, template_date="2026-01-01", temperature=800_000, top_p=950_000)
        prompt = chat.render({"messages": [{"role": "user", "content": "What is a module?"}]}, "2026-01-01")
        answer, _ = await answer_of(engine, params, b"\x04" * 32, prompt, [], chat.eos_ids)
        assert answer[-1] in chat.eos_ids
        assert not set(answer[:-1]) & set(chat.eos_ids)


class TestPort:
    async def test_check_finds_all_abilities(self, engine: VllmEngine) -> None:
        info = await engine.check()
        assert (info.has_sampler, info.has_prompt_logprobs) == (True, True)
        # Nor does a replay cost more than need be: our flags load the score route.
        assert (info.problems, info.hints) == ((), ())
        assert info.max_context == 1024
        assert info.version.startswith("vllm 0.")

    async def test_another_model_name_is_refused(self, engine: VllmEngine) -> None:
        engine.model_name = "somebody/else"
        with pytest.raises(EngineUnavailable, match="not somebody/else"):
            await engine.check()

    async def test_reports_alternatives_and_the_finish(self, engine: VllmEngine, chat: ChatFormat) -> None:
        params = JobParams(max_tokens=5, min_tokens=5, template_date="2026-01-01", top_k=10)
        sampling = EngineSampling(params=params, seed=b"\x05" * 32, max_new_tokens=5, eos_ids=chat.eos_ids, logprobs=3)
        chunks = [chunk async for chunk in engine.generate([0, 10, 11], sampling)]
        assert [chunk.finish_reason for chunk in chunks][-1] == "length"
        assert {chunk.finish_reason for chunk in chunks[:-1]} <= {None}
        rows = [row for chunk in chunks for row in chunk.top_logprobs or ()]
        assert [len(row) for row in rows] == [3] * 5
        assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in rows)

    async def test_scores_are_the_same_bits_by_either_road(
        self, engine: VllmEngine, engine_url: str, jobs: list[Job]
    ) -> None:
        """As arrays from the score route, and as text from vLLM's own interface."""
        other = VllmEngine(engine_url, NAME, asks_score_route=False)
        try:
            for job in jobs[:4]:
                for start in (1, len(job.prompt), len(job.prompt) + TOKENS):
                    ids = [*job.prompt, *job.answer]
                    # One after the other: another batch may round otherwise.
                    flat, text = await engine.score(ids, start), await other.score(ids, start)
                    for name in ("top_ids", "top_logprobs", "claimed_logprobs"):
                        assert getattr(flat, name).tobytes() == getattr(text, name).tobytes()
                        assert getattr(flat, name).shape == getattr(text, name).shape
        finally:
            await other.close()

    async def test_an_engine_asked_in_text_says_that_it_costs_more(self, engine_url: str) -> None:
        other = VllmEngine(engine_url, NAME, asks_score_route=False)
        (hint,) = (await other.check()).hints
        await other.close()
        assert "--middleware retally.inference.vllm_score_route.ScoreRoute" in hint

    async def test_closing_early_frees_the_engine(self, engine: VllmEngine) -> None:
        params = JobParams(max_tokens=900, min_tokens=900, template_date="2026-01-01")
        sampling = EngineSampling(params=params, seed=b"\x06" * 32, max_new_tokens=900)
        stream = engine.generate([0, 10], sampling)
        first = await anext(stream)
        await stream.aclose()
        again = await anext(engine.generate([0, 10], sampling))
        assert again.ids[0] == first.ids[0]

    async def test_an_over_long_prompt_is_the_callers_fault(self, engine: VllmEngine) -> None:
        with pytest.raises(BadRequest, match="engine refuses"):
            await engine.score([5] * 1100, 1)
