"""The simulator against a real router: the same requests and nodes, once on simulated time, once over real HTTP.

The real side is a whole router over a real Redis with nodes that sign for real and keep time by themselves: they share
no code with the simulated ones. What is compared is the mean time to the first token.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from tests.fakes_world import MODEL, STOP_ID, VOCABULARY
from tests.router_world import World as RealWorld
from tests.router_world import router_world

from retally.devnet.redis_server import RedisServer
from retally.protocol.eip712 import keccak
from retally.protocol.encoding import u32
from retally.protocol.job import client_seed_from_int, job_seed
from retally_router.logs import configure_logs
from routing_nodes import Make
from routing_paced_node import PacedNode
from routing_trace import BLOCK_TOKENS, Trace, Turn
from routing_world import Setup, World

TOLERANCE = 0.2
STALE_SECONDS = 0.5
MAX_TOKENS = 40
LOADS = (3.0, 6.0)
SYSTEM_PROMPTS = 4
SHAPES = ((600.0, 25.0, 150.0), (1200.0, 40.0, 300.0), (2400.0, 50.0, 500.0), (3600.0, 60.0, 800.0))


@dataclass(frozen=True, slots=True)
class Found:
    """Mean TTFT in seconds on both sides."""

    simulated: float
    real: float
    #: What router and HTTP add to a lone request, which the simulator is told, and what they added on average.
    overhead: float
    outside: float
    requests: int

    @property
    def apart(self) -> float:
        """How far the simulator is off, as a part of the real mean."""
        return abs(self.simulated / self.real - 1.0)


def main(*, as_json: bool, requests: int = 240) -> int:
    """Compare at each load, print, and fail beyond the tolerance."""
    configure_logs("ERROR")
    shown = []
    for per_second in LOADS:
        found = asyncio.run(check(requests=requests, per_second=per_second))
        means = f"simulated {found.simulated:.3f} s, real {found.real:.3f} s, {100 * found.apart:.1f} % apart"
        print(f"{found.requests} requests, {per_second:g} a second: mean TTFT {means}", end=" ")
        print(f"(at most {100 * TOLERANCE:.0f} %); ", end="")
        print(f"outside the nodes {1000 * found.overhead:.0f} ms alone, {1000 * found.outside:.0f} ms on average")
        shown.append({"perSecond": per_second, **asdict(found), "apart": found.apart})
    if as_json:
        print(json.dumps({"tolerance": TOLERANCE, "loads": shown}))
    return 0 if all(float(each["apart"]) <= TOLERANCE for each in shown) else 1


async def check(*, requests: int, per_second: float = 5.0, lie: float = 3.0) -> Found:
    """Both sides once; the simulated mean is over several seeds of the router's draws."""
    makes = [make_of(number, shape, lie if number == 0 else 1.0) for number, shape in enumerate(SHAPES)]
    trace = trace_of(requests, per_second)
    with tempfile.TemporaryDirectory(prefix="retally-routing-") as folder:
        redis = RedisServer(Path(folder), mark=folder)
        await redis.start()
        try:
            nodes = [PacedNode(make.name, make=make) for make in makes]
            async with router_world(
                redis.url, nodes, poll_seconds=STALE_SECONDS, node_stale_seconds=10.0, first_byte_seconds=60.0
            ) as world:
                overhead = await measure_overhead(world, nodes)
                for node in nodes:
                    node.forget()
                real = await replay(world, trace)
                outside = float(np.mean(real) - np.mean([spent for node in nodes for spent in node.spent]))
        finally:
            await redis.stop()
    makes = [replace(make, rtt=overhead) for make in makes]
    simulated = float(np.mean([mean_ttft(trace, makes, seed) for seed in range(1, 9)]))
    return Found(simulated, float(np.mean(real)), overhead, outside, len(real))


def make_of(number: int, shape: tuple[float, float, float], lie: float) -> Make:
    """A node of that speed; the slowest one may lie. Quicker ones cost more."""
    prefill, decode, batch = shape
    price = 100_000 + 60_000 * number
    return Make(
        name=f"paced {number}",
        prefill=prefill,
        decode=decode,
        batch=batch,
        slots=10_000,
        cache_tokens=1_000_000,
        rtt=0.0,
        price_in=price,
        price_out=3 * price,
        stake=10**9,
        failure_rate=0.0,
        declares=lie,
    )


def trace_of(requests: int, per_second: float) -> Trace:
    """Short conversations over a few system prompts; how long each answer is, its seed decides on both sides."""
    random = Random(5)
    turns: list[Turn] = []
    at, session = 0.0, 0
    while len(turns) < requests:
        session += 1
        at += random.expovariate(per_second / 2.0)
        system, start, tokens = random.randrange(SYSTEM_PROMPTS), at, 256
        for _ in range(random.choice((1, 2, 3))):
            tokens += random.randrange(40, 600)
            seed = len(turns)
            turns.append(
                Turn(start, session, tokens, answer_tokens(seed), MAX_TOKENS, blocks_of(system, session, tokens))
            )
            start += 1.0 + random.expovariate(0.5)
    turns.sort(key=lambda turn: turn.at)
    # The seed of a request is its place in time, so its answer's length is set anew.
    ordered = [replace(turn, output_tokens=answer_tokens(seed)) for seed, turn in enumerate(turns[:requests])]
    return Trace("check", tuple(ordered))


def blocks_of(system: int, session: int, tokens: int) -> tuple[int, ...]:
    """A system prompt of four blocks, then the session's own."""
    whole = tokens // BLOCK_TOKENS
    return tuple(
        [10 * system + number for number in range(min(4, whole))] + [1000 * session + n for n in range(4, whole)]
    )


def answer_tokens(seed: int) -> int:
    """How many tokens the nodes of the tests answer with for that seed."""
    noise = job_seed(client_seed_from_int(seed), 0)
    stops = (at for at in range(8, MAX_TOKENS) if keccak(noise + u32(at))[0] % VOCABULARY == STOP_ID)
    return next(stops, MAX_TOKENS - 1) + 1


def text_of(turn: Turn) -> str:
    """Words of four bytes, one a token; equal blocks give equal words."""
    words = []
    for block in turn.blocks:
        draw = Random(block)
        words += [f"{draw.randrange(4096):03x}" for _ in range(BLOCK_TOKENS)]
    draw = Random(-turn.session)
    words += [f"{draw.randrange(4096):03x}" for _ in range(turn.prompt_tokens - len(words))]
    return " ".join(words)


async def measure_overhead(world: RealWorld, nodes: Sequence[PacedNode]) -> float:
    """What router and HTTP add to a lone request, in seconds: the median of some."""
    extra = []
    for number in range(8):
        turn = Turn(0.0, -1 - number, BLOCK_TOKENS, 1, 1)
        for node in nodes:
            node.took = 0.0
        seen = await ask(world, turn, number)
        extra.append(seen - sum(node.took for node in nodes))
    return max(0.001, float(np.median(extra)))


async def replay(world: RealWorld, trace: Trace) -> list[float]:
    """Every turn at its time; the TTFTs."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int, turn: Turn) -> float:
        await asyncio.sleep(max(0.0, began + turn.at - loop.time()))
        return await ask(world, turn, number)

    return list(await asyncio.gather(*(one(number, turn) for number, turn in enumerate(trace.turns))))


async def ask(world: RealWorld, turn: Turn, seed: int) -> float:
    """One streamed completion; seconds to its first token."""
    loop = asyncio.get_running_loop()
    body = {"model": MODEL, "prompt": text_of(turn), "max_tokens": turn.max_tokens, "seed": seed, "stream": True}
    headers = {**world.auth, "x-session-id": str(turn.session)}
    began, first = loop.time(), None
    async with world.http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"the router answered {answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and first is None:
                first = loop.time() - began
    if first is None:
        raise RuntimeError("the router's answer held no token")
    return first


def mean_ttft(trace: Trace, makes: list[Make], seed: int) -> float:
    """One simulated run."""
    world = World(trace, Setup(seed=seed, routers=1, stale_seconds=STALE_SECONDS), makes, "retally")
    return float(np.mean([outcome.ttft for outcome in world.run()]))
