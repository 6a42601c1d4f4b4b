"""The sampler in an engine with little room: preemption, cached prompts and neighbours change no answer."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.e2e.sampler_jobs import Job, answer_of, gather, margins_of

from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling
from retally.inference.sampler_check import replayed
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.job import job_seed
from retally.protocol.params import JobParams

pytestmark = pytest.mark.engine

BLOCK = 32
#: The least that one request of full length needs, and a little.
BLOCKS = 36
TOKENS = 160
JOBS = 10
CHOICES = 4
#: Penalties look at the answer so far: they show at once whether a resumed row has lost or doubled some of it.
RULES: tuple[dict[str, int], ...] = (
    {"top_k": 50, "top_p": 950_000},
    {"temperature": 0, "frequency_penalty": 600_000},
    {"top_k": 40, "repetition_penalty": 1_200_000, "presence_penalty": 300_000},
    {"temperature": 0},
)


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> ChatFormat:
    return ChatFormat.load(model_dir)


@pytest.fixture(scope="module")
def tight_url(session_folder: Path, model_dir: Path) -> Iterator[str]:
    """An engine whose cache holds little more than one long request."""
    server = EngineServer(
        model_dir,
        session_folder / "tight",
        mark=str(session_folder),
        model_name=model_name_of(model_dir),
        name="tight",
        cores=share_cores(1)[0],
    )
    server.service.command += ["--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)]
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture
async def engine(tight_url: str, model_dir: Path) -> AsyncIterator[VllmEngine]:
    opened = VllmEngine(tight_url, model_name_of(model_dir))
    yield opened
    await opened.close()


async def preemptions(url: str) -> float:
    """How many requests the engine has preempted so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    return sum(float(value) for value in re.findall(r"^vllm:num_preemptions_total\S* (\S+)$", text, re.MULTILINE))


def job_params(number: int) -> JobParams:
    # Full length: the end is forbidden until then.
    return JobParams(max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01", **RULES[number % len(RULES)])


def question(chat: ChatFormat, text: str) -> list[int]:
    return chat.render({"messages": [{"role": "user", "content": text}]}, "2026-01-01")


def check_same(chat: ChatFormat, job: Job, again: list[int]) -> None:
    """The same tokens, but for the first one after which two batches' arithmetic parts: that one is nearly a tie."""
    if again == job.answer:
        return
    at = next(n for n, (a, b) in enumerate(zip(again, job.answer, strict=True)) if a != b)
    assert margins_of(job, [again[at]], at, chat)[0] <= 0.2


async def served(engine: VllmEngine, chat: ChatFormat, number: int, prompt: list[int], seed: bytes) -> Job:
    params = job_params(number)
    answer, logprobs = await answer_of(engine, params, seed, prompt, [], chat.eos_ids)
    scores = await engine.score([*prompt, *answer], len(prompt))
    return Job(params, seed, prompt, answer, logprobs, scores)


class TestPreemption:
    async def test_changes_no_answer(self, engine: VllmEngine, tight_url: str, chat: ChatFormat) -> None:
        source = random.Random(5)
        asked = [(n, question(chat, f"What is a module? Variant {n}."), source.randbytes(32)) for n in range(JOBS)]
        before = await preemptions(tight_url)
        # Half of them have room together.
        halves = [await gather(*(served(engine, chat, *each) for each in part)) for part in (asked[::2], asked[1::2])]
        assert await preemptions(tight_url) == before
        jobs = [job for half in halves for job in half]
        again = await gather(
            *(answer_of(engine, job.params, job.seed, job.prompt, [], chat.eos_ids) for job in jobs)
        )  # fmt: skip
        assert await preemptions(tight_url) - before >= 3
        same = 0
        for job, (ids, _) in zip(jobs, again, strict=True):
            check_same(chat, job, ids)
            same += ids == job.answer
        assert same >= JOBS - 2


class TestCachedPrompt:
    @pytest.mark.parametrize("number", range(len(RULES)))
    async def test_changes_no_answer(self, engine: VllmEngine, chat: ChatFormat, number: int) -> None:
        prompt = question(chat, f"Explain number {number}: " + "what is a list, and what is a module? " * 8)
        assert len(prompt) > 2 * BLOCK
        job = await served(engine, chat, number, prompt, b"\x21" * 32)
        sampling = EngineSampling(params=job.params, seed=job.seed, max_new_tokens=TOKENS, eos_ids=chat.eos_ids)
        chunks = [chunk async for chunk in engine.generate(prompt, sampling)]
        assert chunks[-1].cached_tokens >= BLOCK
        check_same(chat, job, [token for chunk in chunks for token in chunk.ids])

    async def test_does_not_carry_another_jobs_choices_over(self, engine: VllmEngine, chat: ChatFormat) -> None:
        prompt = question(chat, "Once more: " + "what is a list, and what is a module? " * 8)
        one = await served(engine, chat, 2, prompt, b"\x22" * 32)
        other = await served(engine, chat, 2, prompt, b"\x23" * 32)
        assert one.answer != other.answer
        named = replayed(other.scores, other.params, other.seed, prompt, other.answer, chat.eos_ids)
        assert sum(a != b for a, b in zip(named, other.answer, strict=True)) <= 1


class TestChoices:
    async def test_each_is_what_it_would_be_alone(self, engine: VllmEngine, chat: ChatFormat) -> None:
        prompt = question(chat, "What is a generator?")
        seeds = [job_seed(b"\x31" * 32, choice) for choice in range(CHOICES)]
        alone = [await served(engine, chat, 0, prompt, seed) for seed in seeds]
        together = await gather(*(answer_of(engine, job_params(0), seed, prompt, [], chat.eos_ids) for seed in seeds))
        for job, (ids, _) in zip(alone, together, strict=True):
            check_same(chat, job, ids)
        assert len({tuple(ids) for ids, _ in together}) == CHOICES
