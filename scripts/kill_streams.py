"""Hits streamed answers in the middle, once each; `scripts/kill_streams` runs it.

Two nodes, each with an engine of its own, serve one answer after the other through the router. Once a random number of
tokens came, the answering node's process is killed, or its engine with it. Every answer must come whole, be the
undisturbed one token for token, or differ first where the replay's margin is small; and the books must balance.
Usage: scripts/kill_streams [--process-kills N] [--tree-kills N] [--seed N] [--server asgi|native] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
from tests.e2e.books import billed_tokens, check_collected, check_escrow, check_tiling, read_books
from tests.e2e.streams import (
    LEAST,
    NAT,
    SECONDS_PER_TOKEN,
    Answer,
    check_receipts,
    margins_of,
    revive,
    undisturbed,
    wait_paid,
    with_a_kill,
)
from tests.slow_engine import SlowEngine

from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.network import Network, RunningNode
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.processes import end_group
from retally.devnet.tools import devnet_model_dir
from retally.inference.chat_format import ChatFormat
from retally.inference.vllm_engine import VllmEngine

NODES = ("node1", "node2")
#: Kills come before an answer can end.
LAST_KILL = LEAST - 20


@dataclass
class Found:
    """What the hits left."""

    kinds: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    whole: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Hits:
    """A network whose nodes are killed while they answer."""

    def __init__(self, network: Network, engines: dict[str, EngineServer], client: openai.AsyncOpenAI) -> None:
        self.network, self.engines, self.client = network, engines, client
        self.found = Found()

    async def hit(self, seed: int, kind: str, after: int) -> None:
        """One answer undisturbed, and again with its node killed."""
        whole = await undisturbed(self.client, self.network, seed)
        try:
            answer = await with_a_kill(self.client, self.network, seed, after, lambda node: self.kill(node, kind))
        except openai.APIError as error:
            self.found.failed.append(f"{seed}: {error}")
        else:
            self.found.kinds.append(kind)
            self.found.answers.append(answer)
            self.found.whole.append(whole)
        await self.revive()

    def kill(self, node: RunningNode, kind: str) -> None:
        """The node's process, and where asked its engine's whole tree."""
        node.service.kill()
        if kind == "tree":
            end_group(self.engines[node.spec.name].service.pid)

    async def revive(self) -> None:
        """Start whatever is dead."""
        for engine in self.engines.values():
            if not engine.service.is_running:
                await engine.start()
        for node in self.network.nodes:
            if not node.service.is_running:
                await revive(self.network, node)


@asynccontextmanager
async def network_of_two(folder: Path, server: str) -> AsyncIterator[Hits]:
    """Two nodes, two engines."""
    model = devnet_model_dir()
    engines = {
        name: EngineServer(
            model,
            folder / "logs",
            mark=str(folder),
            model_name=model_name_of(model),
            name=f"engine-{name}",
            cores=cores,
        )
        for name, cores in zip(NODES, share_cores(len(NODES)), strict=True)
    }
    try:
        for engine in engines.values():
            engine.launch()
        await asyncio.gather(*(engine.wait_ready() for engine in engines.values()))
        one, two = (SlowEngine(engines[name].url, seconds_per_event=SECONDS_PER_TOKEN) for name in NODES)
        async with one, two:
            urls = {"honest": one.url, NODES[1]: two.url}
            nodes = (NodeSpec(name=NODES[0]), NodeSpec(name=NODES[1], engine=NODES[1]))
            options = NetworkOptions(
                home=folder,
                nodes=nodes,
                engine_urls=urls,
                verifier=False,
                poll_seconds=0.25,
                router_settings={"server": server},
            )
            async with Network(options) as network:
                base = f"{network.router_url}/v1"
                async with openai.AsyncOpenAI(
                    base_url=base, api_key=network.api_key, max_retries=0, timeout=300
                ) as client:
                    yield Hits(network, engines, client)
    finally:
        await asyncio.gather(*(engine.stop() for engine in engines.values()))


async def run(folder: Path, process_kills: int, tree_kills: int, seed: int, server: str) -> dict[str, Any]:
    """All hits in a random order, then the comparison and the books."""
    chance = random.Random(seed)
    kinds = ["process"] * process_kills + ["tree"] * tree_kills
    chance.shuffle(kinds)
    async with network_of_two(folder, server) as hits:
        for number, kind in enumerate(kinds):
            await hits.hit(number, kind, chance.randint(1, LAST_KILL))
            say(f"{number + 1} of {len(kinds)}: {kind}, {len(hits.found.failed)} failed")
        found = hits.found
        engine = VllmEngine(hits.engines[NODES[0]].url, hits.network.model)
        try:
            differing = await differences(hits.network, engine, found)
        finally:
            await engine.close()
        await check_books(hits.network, found.answers)
    return report(found, differing)


async def differences(network: Network, engine: VllmEngine, found: Found) -> list[dict[str, Any]]:
    """Where answers first left the undisturbed ones, and the margin of that token."""
    chat, differing = ChatFormat.load(devnet_model_dir()), []
    for seed, (answer, whole) in enumerate(zip(found.answers, found.whole, strict=True)):
        if answer.ids == whole.ids:
            continue
        place = next(
            (at for at, (one, two) in enumerate(zip(answer.ids, whole.ids, strict=False)) if one != two),
            min(len(answer.ids), len(whole.ids)),
        )
        margins = await margins_of(engine, chat, network, seed, answer.ids)
        differing.append({"seed": seed, "at": place, "margin": margins[place] if place < len(margins) else None})
    return differing


async def check_books(network: Network, answers: list[Answer]) -> None:
    """Exact to the smallest unit: receipts tile, nothing is billed twice, and the chain paid what was promised."""
    assert network.chain is not None
    books = await wait_paid(network)
    for answer in answers:
        check_receipts(network, answer, books)
    billed = billed_tokens(books)
    assert all(billed[answer.job] <= len(answer.ids) for answer in answers)
    await network.settle_all()
    for before, node in zip(books, network.nodes, strict=True):
        after = read_books(network, node)
        check_tiling(after)
        await check_collected(network.chain, network.payer.address, before, after)
    check_escrow(network)


def report(found: Found, differing: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures."""
    # A stream's largest gap is the one at which it changed nodes; the usual one is subtracted.
    waits = [max(answer.gaps[1:]) - statistics.median(answer.gaps[1:]) for answer in found.answers]
    small = [each for each in differing if each["margin"] is not None and each["margin"] <= NAT]
    return {
        "streams": len(found.answers) + len(found.failed),
        "processKills": found.kinds.count("process"),
        "treeKills": found.kinds.count("tree"),
        "complete": sum(answer.finish in ("stop", "length") for answer in found.answers),
        "failed": found.failed,
        "equal": len(found.answers) - len(differing),
        "differing": differing,
        "differingWithinNoise": len(small),
        "booksExact": True,
        "waitSeconds": {
            kind: _waits([wait for wait, each in zip(waits, found.kinds, strict=True) if each == kind])
            for kind in ("process", "tree")
        },
    }


def _waits(waits: list[float]) -> dict[str, float] | None:
    if not waits:
        return None
    half, most = np.quantile(waits, [0.5, 0.99])
    return {"p50": round(float(half), 3), "p99": round(float(most), 3), "largest": round(max(waits), 3)}


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run, print, and fail where the promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process-kills", type=int, default=180, help="kills of the node's process, its engine kept")
    parser.add_argument("--tree-kills", type=int, default=20, help="kills of the process and its engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", choices=("asgi", "native"), default="asgi", help="what the router is served with")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-streams-") as folder:
        found = asyncio.run(run(Path(folder), asked.process_kills, asked.tree_kills, asked.seed, asked.server))
    for name, value in found.items():
        print(f"{name:<22}{value}")
    if asked.json:
        print(json.dumps(found))
    whole = found["complete"] == found["streams"]
    return 0 if whole and found["differingWithinNoise"] == len(found["differing"]) else 1


if __name__ == "__main__":
    sys.exit(main())
