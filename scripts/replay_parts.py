"""Where the time of a replay goes: the engine's prefill, its 64 logprobs a token by three roads, and their reading."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import httpx
import msgspec

from retally.devnet.engine_server import EngineServer
from retally.inference.engine import EngineSampling
from retally.inference.vllm_flags import SCORE_PATH
from retally.inference.vllm_frames import Completion, scores_of, scores_of_arrays
from retally.protocol.margins import TOP, Replayed, robust_margins
from retally.protocol.scored_rows import ScoredRows, scores_to_wire
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
    server: EngineServer, jobs: Sequence[AskedJob], answers: Sequence[Sequence[int]], at_once: int
) -> dict[str, float]:
    """Processor milliseconds of each part for one job, so many jobs at a time."""
    wholes = [([*job.prompt_ids, *ids], len(job.prompt_ids)) for job, ids in zip(jobs, answers, strict=True)]
    spent: dict[str, float] = {}
    sent: dict[str, list[bytes]] = {}
    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
        for name, road in ROADS.items():

            async def ask(whole: list[int], start: int, road: Road = road) -> bytes:
                path, body = road(server.model_name, whole, start)
                answer = await client.post(server.url + path, json=body)
                answer.raise_for_status()
                return answer.content

            before = processor_seconds(processes := processes_of(server.service.pid))
            sent[name] = await _batched(wholes, ask, at_once)
            spent[name] = (processor_seconds(processes) - before) / len(jobs)
    found = {name: value if name == PREFILL else value - spent[PREFILL] for name, value in spent.items()}
    own = _own_parts(jobs, answers, sent)
    return {name: 1000 * value for name, value in (found | own).items()}


async def _batched(
    wholes: Sequence[tuple[list[int], int]], ask: Callable[[list[int], int], Awaitable[bytes]], at_once: int
) -> list[bytes]:
    found: list[bytes] = []
    for first in range(0, len(wholes), at_once):
        found += await asyncio.gather(*(ask(*whole) for whole in wholes[first : first + at_once]))
    return found


def _own_parts(
    jobs: Sequence[AskedJob], answers: Sequence[Sequence[int]], sent: dict[str, list[bytes]]
) -> dict[str, float]:
    """What the verifier itself does with the engine's answers."""
    spent = dict.fromkeys(("reading arrays", "reading text", "margins", "between node and verifier"), 0.0)
    for job, ids, arrays, text in zip(jobs, answers, sent[ARRAYS], sent[TEXT], strict=True):
        start, marks = len(job.prompt_ids), [time.thread_time()]
        scores = scores_of_arrays(arrays, ids, start, TOP)
        marks.append(time.thread_time())
        rows = msgspec.json.decode(text, type=Completion).choices[0].prompt_logprobs
        if rows is None:
            raise SystemExit("the engine returned no prompt logprobs")
        scores_of(rows[start:], ids, start, TOP)
        marks.append(time.thread_time())
        sampling = job.sampling
        robust_margins(Replayed(sampling.params, sampling.seed, job.prompt_ids, (), ids, sampling.eos_ids), scores)
        marks.append(time.thread_time())
        wire = scores_to_wire(start, scores.top_ids, scores.top_logprobs, scores.claimed_logprobs)
        ScoredRows.from_wire(json.loads(json.dumps(wire)), start, len(ids))
        marks.append(time.thread_time())
        for name, begun, ended in zip(spent, marks, marks[1:], strict=False):
            spent[name] += ended - begun
    return {name: value / len(jobs) for name, value in spent.items()}


Road = Callable[[str, list[int], int], tuple[str, dict[str, Any]]]


def _prefill(model: str, whole: list[int], start: int) -> tuple[str, dict[str, Any]]:
    # No request finds what another left in the engine's cache: neither does a replay, which wants every logprob.
    return "/v1/completions", {**_plain(model, whole), "cache_salt": secrets.token_hex(16)}


def _text(model: str, whole: list[int], start: int) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {**_plain(model, whole), "prompt_logprobs": TOP}


def _ids(model: str, whole: list[int], start: int) -> tuple[str, dict[str, Any]]:
    sampling = {"temperature": 0, "max_tokens": 1, "prompt_logprobs": TOP, "detokenize": False}
    return "/inference/v1/generate", {"model": model, "token_ids": whole, "sampling_params": sampling}


def _arrays(model: str, whole: list[int], start: int) -> tuple[str, dict[str, Any]]:
    return SCORE_PATH, {"model": model, "ids": whole, "start": start, "top": TOP}


def _plain(model: str, ids: list[int]) -> dict[str, Any]:
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0}


PREFILL, ARRAYS, TEXT = "prefill", "logprobs as arrays", "logprobs with text"
ROADS: dict[str, Road] = {
    PREFILL: _prefill,
    ARRAYS: _arrays,
    "logprobs by vLLM's route of ids": _ids,
    TEXT: _text,
}
