"""Requests to route: synthetic conversations, or the published traces of Mooncake, Azure and BurstGPT."""

from __future__ import annotations

import csv
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, islice
from math import exp, log
from pathlib import Path
from random import Random

from retally_router.prefix_map import chain

BLOCK_TOKENS = 64
MOONCAKE_BLOCK_TOKENS = 512
SYSTEM_PROMPTS = 60
LONGEST_PROMPT = 12_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: when it comes, how long it is, and which blocks its prompt and then its whole text consist of."""

    at: float
    session: int
    prompt_tokens: int
    output_tokens: int
    #: What the client allows: the router knows this, not the true length.
    max_tokens: int
    blocks: tuple[int, ...] = ()
    later_blocks: tuple[int, ...] = ()
    #: The prompt's chained hashes, as a router computes them.
    links: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.links:
            object.__setattr__(self, "links", chain(self.blocks))


@dataclass(frozen=True, slots=True)
class Trace:
    """Turns in the order of their arrival."""

    name: str
    turns: tuple[Turn, ...]
    block_tokens: int = BLOCK_TOKENS

    def at_load(self, factor: float) -> Trace:
        """The same turns, so many times denser in time."""
        return replace(self, turns=tuple(replace(turn, at=turn.at / factor) for turn in self.turns))

    def first(self, count: int) -> Trace:
        """The first of them."""
        return replace(self, turns=self.turns[:count])


def synthetic(count: int, seed: int, *, per_second: float = 10.0) -> Trace:
    """Conversations of several turns over Zipf-distributed system prompts; arrivals do not wait for answers."""
    random = Random(seed)
    weights = list(accumulate(1.0 / (rank + 1) for rank in range(SYSTEM_PROMPTS)))
    systems = [int(min(3000, max(100, random.lognormvariate(log(700), 0.8)))) for _ in range(SYSTEM_PROMPTS)]
    turns: list[Turn] = []
    at, session = 0.0, 0
    while len(turns) < count * 1.3:
        at += random.expovariate(per_second / 4.0)
        session += 1
        system = bisect_left(weights, random.random() * weights[-1])
        turns += _conversation(random, at, session, system, systems[system])
    turns.sort(key=lambda turn: turn.at)
    return Trace("synthetic", tuple(turns[:count]))


def _conversation(random: Random, at: float, session: int, system: int, system_tokens: int) -> Iterator[Turn]:
    tokens = system_tokens
    shared = system_tokens // BLOCK_TOKENS

    def blocks(length: int) -> tuple[int, ...]:
        whole = length // BLOCK_TOKENS
        own = [10**6 * session + number for number in range(shared, whole)]
        return tuple([-(1000 * system + number + 1) for number in range(min(shared, whole))] + own)

    while True:
        tokens += int(max(8, min(2000, random.lognormvariate(log(90), 1.0))))
        output = int(max(4, min(2000, random.lognormvariate(log(150), 0.8))))
        if tokens > LONGEST_PROMPT:
            return
        ends = tokens + output
        allowed = random.choice((512, 1024, 2048))
        yield Turn(at, session, tokens, min(output, allowed), allowed, blocks(tokens), blocks(ends))
        if random.random() < 0.25:
            return
        tokens = ends
        at += output * 0.03 + random.expovariate(1 / 15.0)


def mooncake(lines: Iterable[str]) -> Trace:
    """JSON lines {timestamp in ms, input_length, output_length, hash_ids of 512-token blocks, each over its prefix}."""
    turns: list[Turn] = []
    for line in lines:
        if not line.strip():
            continue
        row = json.loads(line)
        ids = tuple(int(block) for block in row["hash_ids"])
        prompt, output = int(row["input_length"]), max(1, int(row["output_length"]))
        # The trace names no conversations: those that share their second block are taken for one.
        session = ids[1] if len(ids) > 1 else -len(turns)
        whole = ids[: prompt // MOONCAKE_BLOCK_TOKENS]
        turns.append(Turn(float(row["timestamp"]) / 1000, session, prompt, output, 2 * output, whole, whole))
    return _sorted("mooncake", turns, MOONCAKE_BLOCK_TOKENS)


def azure(lines: Iterable[str]) -> Trace:
    """CSV with TIMESTAMP, ContextTokens, GeneratedTokens; neither conversations nor prefixes are known."""
    turns: list[Turn] = []
    for number, row in enumerate(csv.DictReader(lines)):
        at = _timestamp(row["TIMESTAMP"])
        output = max(1, int(row["GeneratedTokens"]))
        turns.append(Turn(at, number, max(1, int(row["ContextTokens"])), output, 2 * output))
    return _sorted("azure", turns, BLOCK_TOKENS)


def burstgpt(lines: Iterable[str]) -> Trace:
    """CSV with Timestamp in seconds, Request and Response tokens; later files add Session ID. Failures are left out."""
    turns: list[Turn] = []
    sessions: dict[str, int] = {}
    for number, row in enumerate(csv.DictReader(lines)):
        output = int(row["Response tokens"])
        if output == 0:
            continue
        session = sessions.setdefault(row.get("Session ID") or f"row {number}", len(sessions))
        turns.append(Turn(float(row["Timestamp"]), session, max(1, int(row["Request tokens"])), output, 2 * output))
    return _sorted("burstgpt", turns, BLOCK_TOKENS)


LOADERS = {"mooncake": mooncake, "azure": azure, "burstgpt": burstgpt}


def load(text: str, count: int) -> Trace:
    """A published trace by `format:path`, its first requests."""
    kind, _, path = text.partition(":")
    if kind not in LOADERS or not path:
        raise SystemExit(f"--trace wants FORMAT:PATH with FORMAT out of {', '.join(LOADERS)}, not {text!r}")
    with Path(path).open(encoding="utf-8") as file:
        # Failed requests are left out later, so some more lines are read.
        trace = LOADERS[kind](islice(file, 2 * count + 1))
    return trace.first(count)


def _timestamp(text: str) -> float:
    # Seven digits of a second in the file of 2023, an offset in that of 2024.
    whole, _, rest = text.strip().partition(".")
    digits = rest.split("+", maxsplit=1)[0].rstrip("Z")
    stamp = datetime.fromisoformat(whole.split("+", maxsplit=1)[0] + "+00:00").timestamp()
    return stamp + (float(f"0.{digits}") if digits else 0.0)


def _sorted(name: str, turns: Sequence[Turn], block_tokens: int) -> Trace:
    if not turns:
        raise SystemExit(f"the {name} trace holds no request")
    ordered = sorted(turns, key=lambda turn: turn.at)
    start = ordered[0].at
    return Trace(name, tuple(replace(turn, at=turn.at - start) for turn in ordered), block_tokens)


def mean_prompt(trace: Trace) -> float:
    """Tokens of a prompt on average."""
    return sum(turn.prompt_tokens for turn in trace.turns) / len(trace.turns)


def geometric(low: float, high: float, share: float) -> float:
    """The value at that share of the way from low to high, by factors."""
    return low * exp(log(high / low) * share)
