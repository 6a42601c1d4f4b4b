"""Prints the engine's throughput with retally's sampler beside its own, for each kind of sampling, and their ratio.

Usage: scripts/bench_sampler [--rounds N] [--tokens N] [--random-model MILLIONS] [--profile] [--json]

Two engines with the same flags, but for the plugin, serve rounds of 16 requests in turn, on the same core. The
engine's own sampler goes unseeded. On a machine that others use, read the ratio by processor time: that of all the
server's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from random_model import make_random_model
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.tools import devnet_model_dir
from retally.inference.vllm_flags import SAMPLER_PLUGIN
from sampler_load import WORKLOADS, Spent, machine_load, run_round

AT_ONCE = 16
TARGET = 0.95
PROFILED = "sampler_profile:TimedSampler"
PROFILE_FILE = "RETALLY_SAMPLER_PROFILE"
SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class Compared:
    """One kind of sampling: what both samplers took in each round."""

    kind: str
    own: list[Spent]
    ours: list[Spent]

    def ratios(self, by: str) -> list[float]:
        """Our throughput over theirs, round by round, in rising order."""
        return sorted(getattr(b, by) / getattr(a, by) for a, b in zip(self.own, self.ours, strict=True))

    def described(self) -> dict[str, object]:
        """The comparison for machines."""
        clock, processor = self.ratios("tokens_per_second"), self.ratios("tokens_per_processor_second")
        return {
            "kind": self.kind,
            "ownTokensPerSecond": statistics.median(each.tokens_per_second for each in self.own),
            "oursTokensPerSecond": statistics.median(each.tokens_per_second for each in self.ours),
            "ratio": statistics.median(clock),
            "ratios": clock,
            "processorRatio": statistics.median(processor),
            "processorRatios": processor,
            "holds": statistics.median(clock) >= TARGET,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each sampler and kind")
    parser.add_argument("--tokens", type=int, default=128, help="length of each answer")
    parser.add_argument("--random-model", type=int, default=0, metavar="MILLIONS", help="random weights, that many")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sampler-bench-") as name:
        folder = Path(name)
        model, parameters = devnet_model_dir(), 0
        if asked.random_model:
            parameters = make_random_model(asked.random_model, model, folder / "model")
            model = folder / "model"
        print(f"model: {f'{parameters:,} random parameters' if parameters else model_name_of(model)}")
        before = machine_load()
        print(f"load: {before}")
        work = profile(model, folder, asked.tokens) if asked.profile else compare(model, folder, asked)
        found = asyncio.run(work)
        after = machine_load()
        print(f"load: {after}")
    if asked.json:
        said = {"parameters": parameters, "atOnce": AT_ONCE, "tokens": asked.tokens, "load": [before, after]}
        print(json.dumps({**said, "results": found}))


async def compare(model: Path, folder: Path, asked: argparse.Namespace) -> list[dict[str, object]]:
    """Both samplers in turn, who begins changing from round to round."""
    own, ours = engine(model, folder, "own", None), engine(model, folder, "ours", SAMPLER_PLUGIN)
    try:
        own.launch()
        ours.launch()
        await own.wait_ready()
        await ours.wait_ready()
        compared = [Compared(kind, [], []) for kind in WORKLOADS]
        for turn in range(-1, asked.rounds):
            for each in compared:
                both = [(own, False, each.own), (ours, True, each.ours)]
                for server, is_ours, spent in both if turn % 2 else reversed(both):
                    took = await run_round(
                        server, each.kind, turn, ours=is_ours, at_once=AT_ONCE, tokens=asked.tokens
                    )  # fmt: skip
                    # The first turn warms up.
                    if turn >= 0:
                        spent.append(took)
    finally:
        await own.stop()
        await ours.stop()
    print(f"{'':<38}{'own tok/s':>10}{'ours':>9}{'ratio':>8}{'of rounds':>14}{'by processor time':>24}")
    for each in compared:
        print(line(each))
    return [each.described() for each in compared]


def line(each: Compared) -> str:
    """One line for people; ratios as median (least to most)."""
    clock, processor = each.ratios("tokens_per_second"), each.ratios("tokens_per_processor_second")
    own = statistics.median(spent.tokens_per_second for spent in each.own)
    ours = statistics.median(spent.tokens_per_second for spent in each.ours)
    mark = "" if statistics.median(clock) >= TARGET else "  MISSED"
    spreads = [f"{statistics.median(part):.3f} ({part[0]:.2f} to {part[-1]:.2f})" for part in (clock, processor)]
    return f"{each.kind:<38}{own:>10.0f}{ours:>9.0f}  {spreads[0]:>20}  {spreads[1]:>20}{mark}"


async def profile(model: Path, folder: Path, tokens: int) -> list[dict[str, object]]:
    """Milliseconds of the engine's thread in each part of a step; one engine serves both samplers."""
    path = folder / "profile.json"
    os.environ[PROFILE_FILE] = str(path)
    server = engine(model, folder, "profiled", PROFILED)
    found: list[dict[str, object]] = []
    try:
        await server.start()
        for kind in WORKLOADS:
            for ours in (False, True):
                steps = await profiled(server, path, kind, tokens, ours=ours)
                found.append({"kind": kind, "sampler": "ours" if ours else "own", "millisecondsPerStep": steps})
                parts = ", ".join(f"{part} {value:.2f}" for part, value in steps.items())
                print(f"{kind:<38}{'ours' if ours else 'own':<6}{parts}")
    finally:
        await server.stop()
    return found


async def profiled(server: EngineServer, path: Path, kind: str, tokens: int, *, ours: bool) -> dict[str, float]:
    """Run rounds of one kind and return the processor milliseconds of each part for a decoding step."""
    await run_round(server, kind, 0, ours=ours, at_once=AT_ONCE, tokens=8)
    before = await settled(server, path)
    for turn in range(3):
        await run_round(server, kind, turn, ours=ours, at_once=AT_ONCE, tokens=tokens)
    after = await settled(server, path)
    steps = after["sampler"][0] - before["sampler"][0]
    spent = {part: (after[part][1] - before.get(part, [0, 0])[1]) * 1000 / steps for part in after}
    return {"steps": steps, **spent}


async def settled(server: EngineServer, path: Path) -> dict[str, list[float]]:
    """The clocks, once a short request has had them written."""
    await asyncio.sleep(SETTLE_SECONDS)
    await run_round(server, "greedy", 0, ours=False, at_once=1, tokens=1)
    return read_clocks(path)


def read_clocks(path: Path) -> dict[str, list[float]]:
    """Calls and processor seconds of each part so far."""
    clocks: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return clocks


def engine(model: Path, folder: Path, name: str, plugin: str | None) -> EngineServer:
    """A server with the devnet's flags and this plugin, or none; all take the same core."""
    server = EngineServer(
        model, folder, mark=str(folder), model_name=model_name_of(model), name=name, cores=share_cores(1)[0]
    )
    command = server.service.command
    at = command.index("--logits-processors")
    server.service.command = [*command[:at], *(["--logits-processors", plugin] if plugin else []), *command[at + 2 :]]
    return server


if __name__ == "__main__":
    main()
