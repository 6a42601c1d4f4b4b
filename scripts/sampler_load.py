"""The load of scripts/bench_sampler: the same requests for the engine's own sampler and for ours."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil

from retally.devnet.engine_server import EngineServer
from retally.inference.engine import EngineSampling
from retally.inference.vllm_engine import sampler_argument
from retally.inference.vllm_flags import SAMPLER_ARGUMENT
from retally.protocol.params import ONE, JobParams

PROMPT_TOKENS = 32
#: Ordinary ids of the devnet's vocabulary lie above its special tokens.
FIRST_ID, LAST_ID = 16, 4000
#: One kind of sampling each, in the words of an OpenAI client.
WORKLOADS: Mapping[str, Mapping[str, float]] = {
    "greedy": {"temperature": 0},
    "temperature 1": {"temperature": 1},
    "temperature 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "temperature 1, top-k 50": {"temperature": 1, "top_k": 50},
    "as the third, frequency penalty 0.5": {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.5},
}


@dataclass(frozen=True)
class Spent:
    """What one round of requests took."""

    tokens: int
    seconds: float
    #: Of all the server's processes.
    processor_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Throughput by the clock."""
        return self.tokens / self.seconds

    @property
    def tokens_per_processor_second(self) -> float:
        """Throughput by the server's own processor time, which other programs on the machine disturb less."""
        return self.tokens / self.processor_seconds


async def run_round(server: EngineServer, kind: str, seed: int, *, ours: bool, at_once: int, tokens: int) -> Spent:
    """Send so many requests at once and wait for all; each answer has `tokens` tokens, whatever it says."""
    source = random.Random(seed)
    bodies = [request_body(server.model_name, kind, source, ours=ours, tokens=tokens) for _ in range(at_once)]
    processes = processes_of(server.service.pid)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        used, started = processor_seconds(processes), time.perf_counter()
        counts = await asyncio.gather(*(_ask(session, server.url, body) for body in bodies))
        seconds = time.perf_counter() - started
    return Spent(sum(counts), seconds, processor_seconds(processes) - used)


def request_body(model: str, kind: str, source: random.Random, *, ours: bool, tokens: int) -> dict[str, Any]:
    """One request; the engine's own sampler goes unseeded, which is the cheaper way for it."""
    fields = WORKLOADS[kind]
    prompt = [source.randrange(FIRST_ID, LAST_ID) for _ in range(PROMPT_TOKENS)]
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "seed": None}
    if not ours:
        return {**body, **fields}
    params = JobParams(
        max_tokens=tokens,
        template_date="2026-01-01",
        temperature=round(fields["temperature"] * ONE),
        top_p=round(fields.get("top_p", 1) * ONE),
        top_k=int(fields.get("top_k", 0)),
        frequency_penalty=round(fields.get("frequency_penalty", 0) * ONE),
    )
    sampling = EngineSampling(params=params, seed=source.randbytes(32), max_new_tokens=tokens)
    return {**body, "temperature": 0, "vllm_xargs": {SAMPLER_ARGUMENT: sampler_argument(sampling)}}


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> int:
    async with session.post(f"{url}/v1/completions", json=body) as response:
        text = await response.text()
        if response.status != 200:
            raise SystemExit(f"the engine answered {response.status}: {text[:300]}")
        return int(json.loads(text)["usage"]["completion_tokens"])


def processes_of(pid: int) -> list[psutil.Process]:
    """A server and all that it started."""
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def processor_seconds(processes: list[psutil.Process]) -> float:
    """What these have used so far."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def machine_load() -> str:
    """The machine's load averages, to be read beside every figure."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
