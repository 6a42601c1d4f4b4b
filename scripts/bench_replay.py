"""Prints what a replay costs beside the node's decode of the same job: one at a time, and batched against batched.

Usage: scripts/bench_replay [--jobs N] [--tokens N] [--at-once N] [--random-model MILLIONS] [--json]

One vLLM server decodes jobs with retally's sampler and then replays them: one prefill with 64 logprobs a token, parsed
and turned into margins as a verifier does; once by the engine's score route, once by vLLM's completions, which make
text of each logprob. What the engine spends is the processor time of all its processes; what the verifier spends beside
it is this process's own, and is counted to the replay alone.
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
from retally.inference.chat_format import ChatFormat
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
class Costs:
    """Of the same jobs: their decode, their replay, and their replay by completions."""

    decode: Cost
    replay: Cost
    in_text: Cost


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
        self.in_text = VllmEngine(server.url, server.model_name, asks_score_route=False)

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.close()
        await self.in_text.close()

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

    async def replay(self, engine: VllmEngine, asked: Asked, ids: Sequence[int]) -> float:
        """The largest margin of an answer: what a verifier does with it."""
        scores = await engine.score([*asked.prompt_ids, *ids], len(asked.prompt_ids))
        sampling = asked.sampling
        replayed = Replayed(sampling.params, sampling.seed, asked.prompt_ids, (), ids, sampling.eos_ids)
        return float(robust_margins(replayed, scores).max())

    async def costs(self, jobs: Sequence[Asked], at_once: int) -> Costs:
        """What decode and replay of these jobs cost, so many at once."""
        answers: list[list[int]] = []

        async def decode() -> None:
            answers.extend(await batched(jobs, self.decode, at_once))

        decoded = await self.measured(len(jobs), decode)
        if any(len(ids) != job.sampling.max_new_tokens for job, ids in zip(jobs, answers, strict=True)):
            raise SystemExit("an answer is shorter than asked for: decode and replay would not be of one length")
        found: list[Cost] = []
        for engine in (self.engine, self.in_text):
            margins: list[float] = []

            async def replay(engine: VllmEngine = engine, margins: list[float] = margins) -> None:
                made = list(zip(jobs, answers, strict=True))
                margins.extend(await batched(made, lambda pair: self.replay(engine, *pair), at_once))

            found.append(await self.measured(len(jobs), replay))
            if max(margins) > 1:
                raise SystemExit(f"the engine's own answers have margins of {max(margins):.2f}: the replay is wrong")
        return Costs(decoded, *found)


async def batched(items: Sequence[Item], call: Callable[[Item], Awaitable[Result]], at_once: int) -> list[Result]:
    """All results in order, in batches of so many."""
    found: list[Result] = []
    for first in range(0, len(items), at_once):
        found += await asyncio.gather(*(call(item) for item in items[first : first + at_once]))
    return found


def make_jobs(count: int, tokens: int, seed: int, eos_ids: tuple[int, ...]) -> list[Asked]:
    """Jobs of exactly so many tokens: the end is forbidden until then."""
    source = random.Random(seed)
    params = JobParams(
        max_tokens=tokens, min_tokens=tokens, template_date="2026-01-01", temperature=ONE, top_p=950_000
    )  # fmt: skip
    return [
        Asked(
            tuple(source.randrange(FIRST_ID, LAST_ID) for _ in range(PROMPT_TOKENS)),
            EngineSampling(params=params, seed=source.randbytes(32), eos_ids=eos_ids, max_new_tokens=tokens),
        )
        for _ in range(count)
    ]


async def measure(server: EngineServer, jobs: int, tokens: int, at_once: int) -> dict[str, object]:
    """Both ways, and where a replay's time goes."""
    bench = Bench(server)
    await server.start()
    try:
        if hints := (await bench.engine.check()).hints:
            raise SystemExit(f"nothing to compare: {'; '.join(hints)}")
        eos_ids = ChatFormat.load(devnet_model_dir()).eos_ids
        # Warms up all ways of asking.
        await bench.costs(make_jobs(2, 16, 0, eos_ids), 2)
        alone = await bench.costs(make_jobs(jobs, tokens, 1, eos_ids), 1)
        together = await bench.costs(make_jobs(max(jobs, 2 * at_once), tokens, 2, eos_ids), at_once)
        asked = make_jobs(jobs, tokens, 3, eos_ids)
        parts = [await parts_of(server, asked, await batched(asked, bench.decode, at_once), n) for n in (1, at_once)]
    finally:
        await bench.close()
        await server.stop()
    show("one at a time", alone, TARGET_ALONE)
    show(f"{at_once} at once", together, TARGET_BATCHED)
    for n, found in zip((1, at_once), parts, strict=True):
        said = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        print(f"milliseconds of a replay's parts, {n} at a time: {said}")
    return {
        "alone": described(alone, TARGET_ALONE),
        "batched": described(together, TARGET_BATCHED),
        "partsMilliseconds": {"alone": parts[0], "batched": parts[1]},
    }


def show(name: str, costs: Costs, target: float) -> None:
    """One line for people for each way of replaying."""
    for way, cost in ((name, costs.replay), ("  in text", costs.in_text)):
        ratio, alone = cost.processor / costs.decode.engine, cost.engine / costs.decode.engine
        mark = "" if ratio <= target else f"  MISSED {target:.0%}"
        print(
            f"{way:<14} decode {1000 * costs.decode.engine:.0f} ms, replay {1000 * cost.engine:.0f} + "
            f"{1000 * cost.own:.0f} ms of processors: {ratio:.1%} (engine alone {alone:.1%}, "
            f"by the clock {cost.wall / costs.decode.wall:.1%}){mark}"
        )


def described(costs: Costs, target: float) -> dict[str, object]:
    """The comparison for machines."""
    ratio = costs.replay.processor / costs.decode.engine
    return {
        "decodeMilliseconds": {"wall": 1000 * costs.decode.wall, "engine": 1000 * costs.decode.engine},
        "replayMilliseconds": in_milliseconds(costs.replay),
        "replayInTextMilliseconds": in_milliseconds(costs.in_text),
        "ratio": ratio,
        "ratioInText": costs.in_text.processor / costs.decode.engine,
        "engineRatio": costs.replay.engine / costs.decode.engine,
        "wallRatio": costs.replay.wall / costs.decode.wall,
        "target": target,
        "holds": ratio <= target,
    }


def in_milliseconds(cost: Cost) -> dict[str, float]:
    """What a replay takes."""
    return {"wall": 1000 * cost.wall, "engine": 1000 * cost.engine, "verifier": 1000 * cost.own}


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
        # For a part's comparison: vLLM's own route of ids.
        server.service.command.append("--enable-scale-out")
        found = asyncio.run(measure(server, asked.jobs, asked.tokens, asked.at_once))
        load = [before, machine_load()]
        print(f"load: {load[0]} before, {load[1]} after")
    if asked.json:
        said = {"parameters": parameters, "tokens": asked.tokens, "atOnce": asked.at_once, "load": load}
        print(json.dumps({**said, **found}))


if __name__ == "__main__":
    main()
