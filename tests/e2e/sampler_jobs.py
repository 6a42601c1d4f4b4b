"""Seeded jobs on a real engine and what a replay thinks of them; shared by the tests of the sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling, Scores
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.params import JobParams

AT_ONCE = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A seeded job and what the engine made of it."""

    params: JobParams
    seed: bytes
    prompt: list[int]
    answer: list[int]
    logprobs: list[float]
    scores: Scores


async def gather(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run all, so many at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run(one: Coroutine[Any, Any, T]) -> T:
        async with room:
            return await one

    return await asyncio.gather(*(run(one) for one in work))


async def answer_of(
    engine: VllmEngine, params: JobParams, seed: bytes, prompt: list[int], prefix: list[int], eos: tuple[int, ...]
) -> tuple[list[int], list[float]]:
    sampling = EngineSampling(
        params=params, seed=seed, position=len(prefix), eos_ids=eos, max_new_tokens=params.max_tokens - len(prefix)
    )
    ids: list[int] = []
    logprobs: list[float] = []
    async for chunk in engine.generate([*prompt, *prefix], sampling):
        ids.extend(chunk.ids)
        logprobs.extend(chunk.logprobs)
    return ids, logprobs


def margins_of(job: Job, claimed: list[int], start: int, chat: ChatFormat) -> np.ndarray:
    """Margins of claimed ids at positions from `start` on, under the job's own scores."""
    rows = slice(start, start + len(claimed))
    scores = Scores(
        start, job.scores.top_ids[rows], job.scores.top_logprobs[rows], job.scores.claimed_logprobs[rows]
    )  # fmt: skip
    prefix = job.answer[:start]
    return robust_margins(Replayed(job.params, job.seed, job.prompt, prefix, claimed, chat.eos_ids), scores)
