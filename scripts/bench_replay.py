"""Prints what a replay costs beside the node's decode of the same job: one at a time, and batched against batched.

Usage: scripts/bench_replay [--jobs N] [--tokens N] [--at-once N] [--random-model MILLIONS] [--json]

One vLLM server decodes jobs with retally's sampler and then replays them: one prefill with 64 logprobs a token, parsed
and turned into margins as a verifier does. What the engine spends is the processor time of all its processes; what the
verifier spends beside it is this process's own, and is counted to the replay alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from random_model import make_random_model
from replay_parts import parts_of
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.tools import devnet_model_dir
from retally.inference.engine import EngineSampling
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.params import ONE, JobParams
from sampler_load import FIRST_ID, LAST_ID, machine_load, processes_of, processor_seconds

Item = TypeVar("Item")
Result = TypeVar("Result")

PROMPT_TOKENS = 48
TARGET_ALONE, TARGET_BATCHED = 0.05, 0.30


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that is decoded and replayed."""

    prompt_ids: tuple[int, ...]
    sampling: EngineSampling


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one job: seconds by the clock, of the engine's processors, and of this process's."""

    wall: float
    engine: float
    own: float

    @property
    def processor(self) -> float:
        """Engine and this process together."""
        return self.engine + self.own


class Bench:
    """A running engine and what its jobs cost."""

    def __init__(self, server: EngineServer) -> None:
        self.server = server
        self.engine = VllmEngine(server.url, server.model_name)

    async def measured(self, count: int, work: Callable[[], Awaitable[None]]) -> Cost:
        """What one of so many jobs takes."""
        processes = processes_of(self.server.service.pid)
        wall, engine, own = time.perf_counter(), processor_seconds(processes), time.process_time()
        await work()
        spent = processor_seconds(processes) - engine
        return Cost((time.perf_counter() - wall) / count, spent / count, (time.process_time() - own) / count)

    async def decode(self, asked: Asked) -> list[int]:
        """The answer's ids."""
        return [
            token
            async for chunk in self.engine.generate(asked.prompt_ids, asked.sampling)
            for token in chunk.ids
        ]  # fmt: skip

    async def replay(self, asked: Asked, ids: Sequence[int]) -> float:
        """The largest margin of an answer: what a verifier does with it."""
        scores = await self.engine.score([*asked.prompt_ids, *ids], len(asked.prompt_ids))
        replayed = Replayed(asked.sampling.params, asked.sampling.seed, asked.prompt_ids, (), ids, ())
        return float(robust_margins(replayed, scores).max())

    async def pair(self, jobs: Sequence[Asked], at_once: int) -> tuple[Cost, Cost]:
        """What decode and replay of these jobs cost, so many at once."""
        answers: list[list[int]] = []
        margins: list[float] = []

        async def decode() -> None:
            answers.extend(await batched(jobs, self.decode, at_once))

        async def replay() -> None:
            made = list(zip(jobs, answers, strict=True))
            margins.extend(await batched(made, lambda pair: self.replay(*pair), at_once))

        decoded = await self.measured(len(jobs), decode)
        replayed = await self.measured(len(jobs), replay)
        if max(margins) > 1:
            raise SystemExit(f"the engine's own answers have margins of {max(margins):.2f} nats: the replay is wrong")
        return decoded, replayed


async def batched(items: Sequence[Item], call: Callable[[Item], Awaitable[Result]], at_once: int) -> list[Result]:
    """All results in order, in batches of so many."""
    found: list[Result] = []
    for first in range(0, len(items), at_once):
        found += await asyncio.gather(*(call(item) for item in items[first : first + at_once]))
    return found


def make_jobs(count: int, tokens: int, seed: int) -> list[Asked]:
    """Jobs of exactly so many tokens."""
    source = random.Random(seed)
    params = JobParams(
        max_tokens=tokens, min_tokens=tokens, template_date="2026-01-01", temperature=ONE, top_p=950_000
    )  # fmt: skip
    return [
        Asked(
            tuple(source.randrange(FIRST_ID, LAST_ID) for _ in range(PROMPT_TOKENS)),
            EngineSampling(params=params, seed=source.randbytes(32), max_new_tokens=tokens),
        )
        for _ in range(count)
    ]


async def measure(server: EngineServer, jobs: int, tokens: int, at_once: int) -> dict[str, object]:
    """Both ways, and where a replay's time goes."""
    bench = Bench(server)
    await server.start()
    try:
        # Warms up both ways of asking.
        await bench.pair(make_jobs(2, 16, 0), 2)
        alone = await bench.pair(make_jobs(jobs, tokens, 1), 1)
        together = await bench.pair(make_jobs(max(jobs, 2 * at_once), tokens, 2), at_once)
        parts = await parts_of(server, bench.engine, make_jobs(jobs, tokens, 3), bench.decode)
    finally:
        await bench.engine.close()
        await server.stop()
    show("one at a time", alone, TARGET_ALONE)
    show(f"{at_once} at once", together, TARGET_BATCHED)
    print(
        "milliseconds of a replay, one at a time: " + ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    )
    return {
        "alone": described(alone, TARGET_ALONE),
        "batched": described(together, TARGET_BATCHED),
        "partsMilliseconds": parts,
    }


def show(name: str, costs: tuple[Cost, Cost], target: float) -> None:
    """One line for people."""
    decoded, replayed = costs
    ratio, alone = replayed.processor / decoded.engine, replayed.engine / decoded.engine
    mark = "" if ratio <= target else f"  MISSED {target:.0%}"
    print(
        f"{name:<14} decode {1000 * decoded.engine:.0f} ms, replay {1000 * replayed.engine:.0f} + "
        f"{1000 * replayed.own:.0f} ms of processors: {ratio:.1%} (engine alone {alone:.1%}, "
        f"by the clock {replayed.wall / decoded.wall:.1%}){mark}"
    )


def described(costs: tuple[Cost, Cost], target: float) -> dict[str, object]:
    """The comparison for machines."""
    decoded, replayed = costs
    ratio = replayed.processor / decoded.engine
    return {
        "decodeMilliseconds": {"wall": 1000 * decoded.wall, "engine": 1000 * decoded.engine},
        "replayMilliseconds": {
            "wall": 1000 * replayed.wall,
            "engine": 1000 * replayed.engine,
            "verifier": 1000 * replayed.own,
        },
        "ratio": ratio,
        "engineRatio": replayed.engine / decoded.engine,
        "wallRatio": replayed.wall / decoded.wall,
        "target": target,
        "holds": ratio <= target,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8, help="jobs of each kind; batched at least two batches")
    parser.add_argument("--tokens", type=int, default=256, help="length of each answer")
    parser.add_argument("--at-once", type=int, default=16, help="jobs in a batch")
    parser.add_argument("--random-model", type=int, default=0, metavar="MILLIONS", help="random weights, that many")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="replay-bench-") as name:
        folder, model, parameters = Path(name), devnet_model_dir(), 0
        if asked.random_model:
            parameters = make_random_model(asked.random_model, model, folder / "model")
            model = folder / "model"
        print(f"model: {f'{parameters:,} random parameters' if parameters else model_name_of(model)}")
        before = machine_load()
        server = EngineServer(model, folder, mark=str(folder), model_name=model_name_of(model), cores=share_cores(1)[0])
        found = asyncio.run(measure(server, asked.jobs, asked.tokens, asked.at_once))
        load = [before, machine_load()]
        print(f"load: {load[0]} before, {load[1]} after")
    if asked.json:
        said = {"parameters": parameters, "tokens": asked.tokens, "atOnce": asked.at_once, "load": load}
        print(json.dumps({**said, **found}))


if __name__ == "__main__":
    main()
