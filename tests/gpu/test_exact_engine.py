"""A whole engine with batch-invariant kernels: alone or in a batch, decoded or prefilled, the numbers are the same.

Run it with `pytest -m gpu tests/gpu/test_exact_engine.py` before a profile of this hardware is called exact (R-72).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.sampler_jobs import answer_of

from retally.devnet.engine_server import EngineServer, model_name_of
from retally.devnet.tools import devnet_model_dir
from retally.inference.engine import Scores
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.exact import differing
from retally.protocol.margins import Replayed
from retally.protocol.params import JobParams

pytestmark = pytest.mark.gpu

#: A model of the size that will be served tells more than the devnet's.
MODEL = Path(os.environ.get("RETALLY_TEST_MODEL") or devnet_model_dir())
JOBS = 64
TOKENS = 96


@dataclass(frozen=True)
class Served:
    """One answer with what decoding reported and what a prefill says."""

    params: JobParams
    seed: bytes
    prompt: list[int]
    answer: list[int]
    logprobs: list[float]
    scores: Scores

    @property
    def differing(self) -> list[int]:
        return differing(Replayed(self.params, self.seed, self.prompt, (), self.answer, ()), self.scores)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exact")
    server = EngineServer(MODEL, folder, mark=str(folder), model_name=model_name_of(MODEL), is_exact=True)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


async def serve(url: str, number: int) -> Served:
    engine = VllmEngine(url, model_name_of(MODEL))
    source = np.random.default_rng(number)
    heat = (1_000_000, 700_000, 0)[number % 3]
    params = JobParams(
        max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01", temperature=heat, top_p=950_000
    )  # fmt: skip
    prompt = source.integers(10, 4000, int(source.integers(5, 200))).tolist()
    seed = source.bytes(32)
    answer, logprobs = await answer_of(engine, params, seed, prompt, [], ())
    scores = await engine.score([*prompt, *answer], len(prompt))
    await engine.close()
    return Served(params, seed, prompt, answer, logprobs, scores)


@pytest.fixture(scope="module")
def batched(url: str) -> list[Served]:
    async def all_at_once() -> list[Served]:
        return await asyncio.gather(*(serve(url, number) for number in range(JOBS)))

    return asyncio.run(all_at_once())


def test_a_prefill_gives_what_decoding_gave_bit_by_bit(batched: list[Served]) -> None:
    for job in batched:
        assert np.array_equal(np.float32(job.logprobs), job.scores.claimed_logprobs)


def test_no_honest_token_differs(batched: list[Served]) -> None:
    assert [job.differing for job in batched] == [[]] * JOBS


def test_alone_the_answers_are_the_same(url: str, batched: list[Served]) -> None:
    for number in range(0, JOBS, 8):
        alone = asyncio.run(serve(url, number))
        assert alone.answer == batched[number].answer
        assert np.array_equal(alone.scores.top_logprobs, batched[number].scores.top_logprobs)
