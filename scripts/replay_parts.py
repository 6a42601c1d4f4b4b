"""Where the time of a replay goes: the engine's prefill, its 64 logprobs a token, their parsing, the margins."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import httpx
import msgspec

from retally.devnet.engine_server import EngineServer
from retally.inference.engine import EngineSampling
from retally.inference.vllm_engine import VllmEngine
from retally.inference.vllm_frames import Completion, scores_of
from retally.protocol.margins import TOP, Replayed, robust_margins
from sampler_load import processes_of, processor_seconds


class AskedJob(Protocol):
    """A job that was decoded."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Its prompt."""
        ...

    @property
    def sampling(self) -> EngineSampling:
        """How it was sampled."""
        ...


async def parts_of(
    server: EngineServer, engine: VllmEngine, jobs: Sequence[Any], decode: Callable[[Any], Awaitable[list[int]]]
) -> dict[str, float]:
    """Processor milliseconds of each part for one job, one job at a time."""
    answers = [await decode(job) for job in jobs]
    processes = processes_of(server.service.pid)
    spent = dict.fromkeys(("prefill", "logprobs and their text", "parsing", "arrays", "margins"), 0.0)
    async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
        for job, ids in zip(jobs, answers, strict=True):
            whole = [*job.prompt_ids, *ids]
            body = {"model": engine.model_name, "prompt": whole, "max_tokens": 1, "temperature": 0}
            plain, _ = await _posted(client, server.url, body, processes)
            asked, content = await _posted(client, server.url, {**body, "prompt_logprobs": TOP}, processes)
            spent["prefill"] += plain
            spent["logprobs and their text"] += asked - plain
            _add_own(spent, job, ids, whole, content)
    return {name: 1000 * value / len(jobs) for name, value in spent.items()}


async def _posted(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], processes: list[Any]
) -> tuple[float, bytes]:
    before = processor_seconds(processes)
    answer = await client.post(f"{url}/v1/completions", json=body)
    answer.raise_for_status()
    return processor_seconds(processes) - before, answer.content


def _add_own(spent: dict[str, float], job: AskedJob, ids: list[int], whole: list[int], content: bytes) -> None:
    """What the verifier itself does with the engine's answer."""
    start, marks = len(job.prompt_ids), [time.thread_time()]
    rows = msgspec.json.decode(content, type=Completion).choices[0].prompt_logprobs
    if rows is None:
        raise SystemExit("the engine returned no prompt logprobs")
    marks.append(time.thread_time())
    scores = scores_of(rows[start:], whole[start:], start, TOP)
    marks.append(time.thread_time())
    robust_margins(Replayed(job.sampling.params, job.sampling.seed, job.prompt_ids, (), ids, ()), scores)
    marks.append(time.thread_time())
    for name, begun, ended in zip(("parsing", "arrays", "margins"), marks, marks[1:], strict=False):
        spent[name] += ended - begun
