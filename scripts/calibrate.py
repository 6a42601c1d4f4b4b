"""Measure honest and cheating runs of a model on a real engine and write its calibration.

Honest set-ups: the engine answering many jobs at once, one at a time, and another implementation of the model as
re-executor. Alternatives: 4-bit weights, an earlier checkpoint, a colder sampler, another
seed, a hidden prompt. Usage: scripts/calibrate.py [--engine-url URL] [--jobs N] [--tokens N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from calibration_model import ReferenceModel
from calibration_tables import CONFIDENCE_MISS, HeldOut, Margins, hold_out, make_table
from make_cheaper_weights import KINDS, make_cheaper
from retally.devnet.catalogue import CALIBRATIONS, devnet_market
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.tools import devnet_model_dir
from retally.errors import BadRequest
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.encoding import keccak, to_hex, u32
from retally.protocol.margins import Replayed, ReplayScores, robust_margins
from retally.protocol.params import ONE, JobParams

Item = TypeVar("Item")
Result = TypeVar("Result")

DATE = "2026-01-01"
TOPICS = ("lists", "files", "classes", "json", "threads", "dates", "strings", "sockets", "tests", "regular expressions")
QUESTIONS = (
    "What is {0} in Python?",
    "How do I use {0}?",
    "Explain {0} and {1} shortly.",
    "What is the difference between {0} and {1}?",
    "Write about {0}, then about {1}.",
)
SHAPES = (
    {"temperature": ONE},
    {"temperature": ONE, "top_p": 950_000},
    {"temperature": 700_000, "top_p": 900_000},
    {"temperature": ONE, "top_k": 50, "top_p": 950_000},
    {"temperature": 500_000},
    {"temperature": 1_200_000, "top_k": 40},
)
RANGES = {
    "temperature": (500_000, 1_200_000),
    "topP": (900_000, ONE),
    "topK": (0, 1 << 31),
    "minP": (0, 0),
    "promptTokens": (1, 900),
    "outputTokens": (1, 900),
}
AT_ONCE = 16
#: Two implementations of one model differ by less, in nats, on all but few tokens.
NOISE, MOST_OFF = 0.6, 0.01
HIDDEN = "You are terse. Never mention prices. Prefer short sentences and refuse to discuss anything but Python."


@dataclass(frozen=True, slots=True)
class Job:
    """One job to be sampled."""

    prompt_ids: tuple[int, ...]
    params: JobParams
    seed: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """A job with its tokens."""

    job: Job
    ids: tuple[int, ...]


class Bench:
    """An engine, and jobs that run on it."""

    def __init__(self, engine: VllmEngine, chat_format: ChatFormat) -> None:
        self.engine = engine
        self.eos = chat_format.eos_ids
        self._format = chat_format

    def jobs(self, count: int, tokens: int, *, greedy: bool, name: str) -> list[Job]:
        """Jobs of all shapes, the same on every run."""
        rng = random.Random(name)
        made = []
        for index in range(count):
            text = rng.choice(QUESTIONS).format(*rng.sample(TOPICS, 2))
            shape: dict[str, Any] = {"temperature": 0} if greedy else SHAPES[index % len(SHAPES)]
            ids = self._format.render({"messages": [{"role": "user", "content": text}]}, DATE)
            params = JobParams(max_tokens=tokens, template_date=DATE, **shape)
            made.append(Job(tuple(ids), params, keccak(name.encode() + u32(index))))
        return made

    def hidden_ids(self) -> tuple[int, ...]:
        """A system prompt that a cheat puts before the payer's."""
        return tuple(self._format.render({"messages": [{"role": "system", "content": HIDDEN}]}, DATE))

    async def answer(self, job: Job, served: Job | None = None) -> Answered:
        """The engine's tokens for a job; a cheat serves another job than the one asked for."""
        served = served or job
        sampling = EngineSampling(
            params=served.params, seed=served.seed, eos_ids=self.eos, max_new_tokens=served.params.max_tokens
        )
        ids: list[int] = []
        async for chunk in self.engine.generate(served.prompt_ids, sampling):
            ids.extend(chunk.ids)
        return Answered(job, tuple(ids))

    async def scores(self, answered: Answered) -> ReplayScores:
        """One prefill of the engine."""
        ids = [*answered.job.prompt_ids, *answered.ids]
        return await self.engine.score(ids, len(answered.job.prompt_ids))

    async def margins(self, answers: Sequence[Answered], at_once: int = 1) -> list[Margins]:
        """The margins of answers, replayed by the engine."""
        rows = await each(answers, self.scores, at_once)
        return [self.margin(answered, row) for answered, row in zip(answers, rows, strict=True)]

    def margin(self, answered: Answered, scores: ReplayScores) -> Margins:
        """The margins of one answer under some scores."""
        job = answered.job
        return robust_margins(Replayed(job.params, job.seed, job.prompt_ids, (), answered.ids, self.eos), scores)


async def each(items: Sequence[Item], call: Callable[[Item], Awaitable[Result]], at_once: int) -> list[Result]:
    """All results in order, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Result:
        async with gate:
            return await call(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


async def honest_margins(bench: Bench, jobs: Sequence[Job], model: ReferenceModel) -> dict[str, list[Margins]]:
    """Margins of honest answers by set-up."""
    half = len(jobs) // 2
    batched = await each(jobs[:half], bench.answer, AT_ONCE)
    alone = [await bench.answer(job) for job in jobs[half:]]
    answers = [*batched, *alone]
    found = {
        "engine-batched": await bench.margins(batched),
        "engine-alone": await bench.margins(alone, AT_ONCE),
    }
    # In a thread: a blocked loop would not notice that the engine closed idle connections.
    rows = await asyncio.to_thread(lambda: [model.score(a.job.prompt_ids, a.ids) for a in answers])
    found["reference"] = [bench.margin(answered, row) for answered, row in zip(answers, rows, strict=True)]
    off = float(np.mean(np.concatenate(found["reference"]) > NOISE))
    if off > MOST_OFF:
        raise BadRequest(
            f"{off:.0%} of tokens differ from the folder's weights", hint="does the engine serve that folder?"
        )
    return found


def _generate(model: ReferenceModel, jobs: Sequence[Job], eos: Sequence[int]) -> list[Answered]:
    return [Answered(job, model.generate(job.prompt_ids, job.params, job.seed, eos)) for job in jobs]


async def cheating_margins(
    bench: Bench, jobs: Sequence[Job], cheaper: Mapping[str, ReferenceModel]
) -> dict[str, list[Margins]]:
    """Margins of cheats' answers by cheat."""
    found: dict[str, list[Margins]] = {}
    for name, model in cheaper.items():
        answers = await asyncio.to_thread(_generate, model, jobs, bench.eos)
        found[name] = await bench.margins(answers)
    lies: dict[str, Callable[[Job], Job]] = {
        "hidden-prompt": lambda job: replace(job, prompt_ids=(*bench.hidden_ids(), *job.prompt_ids)),
    }
    if jobs[0].params.temperature > 0:
        lies["other-seed"] = lambda job: replace(job, seed=keccak(job.seed))
        lies["colder"] = lambda job: replace(
            job, params=replace(job.params, temperature=job.params.temperature * 7 // 10)
        )
    for name, lie in lies.items():
        served = [(job, lie(job)) for job in jobs]
        answers = await each(served, lambda pair: bench.answer(*pair), AT_ONCE)
        found[name] = await bench.margins(answers)
    return found


async def measure(
    bench: Bench, model_dir: Path, jobs: int, tokens: int
) -> tuple[dict[str, MarginTable], dict[str, object]]:
    """Both tables, and what they rest on."""
    tables: dict[str, MarginTable] = {}
    notes: dict[str, object] = {"tokensPerJob": tokens, "confidenceMissPpm": int(CONFIDENCE_MISS * ONE)}
    with tempfile.TemporaryDirectory() as folder:
        cheaper = {}
        for kind in KINDS:
            make_cheaper(kind, model_dir, Path(folder) / kind)
            cheaper[kind] = ReferenceModel(Path(folder) / kind)
        reference = ReferenceModel(model_dir)
        for mode, count in (("seeded", jobs), ("greedy", max(24, jobs // 2))):
            started = time.monotonic()
            greedy = mode == "greedy"
            honest = await honest_margins(
                bench, bench.jobs(count, tokens, greedy=greedy, name=f"honest {mode}"), reference
            )
            cheats = await cheating_margins(
                bench, bench.jobs(count // 5, tokens, greedy=greedy, name=f"cheat {mode}"), cheaper
            )
            tables[mode] = make_table(honest, cheats)
            held = hold_out(honest, cheats)
            notes[mode] = _note(honest, cheats, held)
            print(f"{mode}: {time.monotonic() - started:.0f} s, {json.dumps(notes[mode])}")
    return tables, notes


def _note(honest: Mapping[str, list[Margins]], cheats: Mapping[str, list[Margins]], held: HeldOut) -> dict[str, object]:
    return {
        "honest": {
            name: {
                "jobs": len(jobs),
                "tokens": sum(len(job) for job in jobs),
                "positive": int(sum((job > 0).sum() for job in jobs)),
                "largestMicroNats": int(max(job.max(initial=0) for job in jobs) * ONE),
            }
            for name, jobs in honest.items()
        },
        "cheats": {
            name: {"jobs": len(jobs), "positivePpm": int(np.concatenate(jobs).astype(bool).mean() * ONE)}
            for name, jobs in cheats.items()
        },
        "heldOut": {
            "jobs": held.jobs,
            "largestLogEMicroNats": int(held.largest_log_e * ONE),
            "meanEPpm": int(held.mean_e * ONE),
        },
    }


async def calibrate(engine_url: str, model_dir: Path, jobs: int, tokens: int, out: Path) -> Path:
    """Measure on a running engine and write the file."""
    market = devnet_market(model_dir)
    engine = VllmEngine(engine_url, model_name_of(model_dir))
    try:
        bench = Bench(engine, ChatFormat.load(model_dir))
        tables, notes = await measure(bench, model_dir, jobs, tokens)
    finally:
        await engine.close()
    return write(Calibration(market.model_id, market.profile_id, market.profile_id, tables, RANGES, notes), out)


def write(calibration: Calibration, out: Path) -> Path:
    """Write a calibration into a folder, named after what it is for."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{to_hex(calibration.model_id)[2:10]}-{to_hex(calibration.node_profile)[2:10]}.json"
    path.write_text(json.dumps(calibration.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{path}: {to_hex(calibration.hash)}")
    return path


async def with_own_engine(model_dir: Path, jobs: int, tokens: int, out: Path) -> None:
    """Start an engine for the measurement."""
    with tempfile.TemporaryDirectory() as folder:
        server = EngineServer(
            model_dir, Path(folder), mark=folder, model_name=model_name_of(model_dir), cores=share_cores(1)[0]
        )
        await server.start()
        try:
            await calibrate(server.url, model_dir, jobs, tokens, out)
        finally:
            await server.stop()


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-url", help="a running engine with the genuine model; one is started otherwise")
    parser.add_argument("--model", type=Path, default=devnet_model_dir())
    parser.add_argument("--jobs", type=int, default=240)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=CALIBRATIONS)
    given = parser.parse_args()
    if given.engine_url:
        asyncio.run(calibrate(given.engine_url, given.model, given.jobs, given.tokens, given.out))
    else:
        asyncio.run(with_own_engine(given.model, given.jobs, given.tokens, given.out))


if __name__ == "__main__":
    main()
