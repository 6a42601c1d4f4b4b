"""Simulated nodes: a prefill queue, streams that share the decode rate, a cache that forgets, failures.

Deliberately richer than what the router predicts with: prefill and decode disturb each other, times scatter, slots
run out, and the cache is smaller than the router thinks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush
from math import inf
from random import Random

from routing_trace import Turn, geometric

#: Of its decode rate a node loses so much while it computes a prompt, and the other way round at full slots.
PREFILL_SLOWS_DECODE = 0.3
DECODE_SLOWS_PREFILL = 0.25
SCATTER = 0.1
LEAST_PREFILL_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Make:
    """What a node is, and what it says of itself."""

    name: str
    prefill: float
    decode: float
    batch: float
    slots: int
    cache_tokens: int
    rtt: float
    #: Amounts per million tokens.
    price_in: int
    price_out: int
    stake: int
    failure_rate: float
    declares: float = 1.0

    @property
    def is_liar(self) -> bool:
        """Whether it overstates its speed."""
        return self.declares > 1.0


def market(seed: int, *, count: int = 16, liars: int = 2, lie: float = 3.0, spread: float = 8.0) -> list[Make]:
    """Unequal nodes in four tiers; the liars are among the two slower ones."""
    random = Random(seed)
    lying = [number for number in range(4, count) if number % 4 < 2][:liars]
    makes = []
    for number in range(count):
        tier = number % 4
        speed = geometric(1.0, spread, tier / 3)
        price = geometric(80_000, 330_000, tier / 3) * random.lognormvariate(0.0, 0.25)
        price = min(420_000.0, max(70_000.0, price))
        makes.append(
            Make(
                name=f"node {number}",
                prefill=1000.0 * speed,
                decode=geometric(28.0, 90.0, tier / 3),
                batch=250.0 * speed,
                slots=int(24 * speed),
                cache_tokens=int(50_000 * speed),
                rtt=geometric(0.01, 0.15, random.random()),
                price_in=int(price),
                price_out=int(3 * price),
                stake=int(geometric(1e9, 2e10, random.random())),
                failure_rate=random.uniform(0.0, 0.05),
                declares=lie if number in lying else 1.0,
            )
        )
    return makes


class Fate(Enum):
    """How a job ends at a node."""

    DONE = auto()
    REFUSED = auto()
    BROKEN = auto()


@dataclass(slots=True)
class Job:
    """A turn on one node."""

    turn: Turn
    #: Called with the moment of each event as the node sees it.
    on_first: Callable[[float, int], None]
    on_end: Callable[[float, Fate], None]
    breaks_at: float = inf
    new_tokens: float = 0.0
    cached: int = 0
    ends_at_level: float = 0.0
    over: bool = False


@dataclass(slots=True)
class Cache:
    """Prefix blocks, the least recently used out first."""

    blocks: int
    _known: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def match(self, blocks: Sequence[int]) -> int:
        """How many blocks from the front are there."""
        found = 0
        for block in blocks:
            if block not in self._known:
                break
            found += 1
        return found

    def add(self, blocks: Sequence[int]) -> None:
        """They are there now, the last ones leave first."""
        for block in reversed(blocks):
            self._known[block] = None
            self._known.move_to_end(block)
        while len(self._known) > self.blocks:
            self._known.popitem(last=False)


class SimNode:
    """One node; `schedule` calls a function at a time."""

    def __init__(
        self, make: Make, block_tokens: int, random: Random, schedule: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self.make = make
        self.alive = True
        self.busy_seconds = 0.0
        self._block_tokens = block_tokens
        self._random = random
        self._schedule = schedule
        self._cache = Cache(max(1, make.cache_tokens // block_tokens))
        self._queue: deque[Job] = deque()
        self._prefilling: Job | None = None
        self._active: list[tuple[float, int, Job]] = []
        self._level = 0.0
        self._moved_at = 0.0
        self._version = 0
        self._count = 0

    @property
    def running(self) -> int:
        """Streams being decoded, and the prompt being computed."""
        return len(self._active) + (self._prefilling is not None)

    @property
    def cache_use(self) -> float:
        """Part of the cache that running streams hold."""
        held = sum(job.turn.prompt_tokens for *_, job in self._active)
        return min(1.0, held / self.make.cache_tokens)

    @property
    def waiting(self) -> int:
        """Jobs whose prompt waits."""
        return len(self._queue)

    @property
    def prefill_tokens(self) -> float:
        """Prompt tokens that wait or are being computed."""
        queued = sum(job.new_tokens for job in self._queue)
        return queued + (self._prefilling.new_tokens if self._prefilling is not None else 0.0)

    def arrive(self, now: float, job: Job) -> None:
        """A job comes in."""
        draw = self._random.random()
        if not self.alive or draw < 0.7 * self.make.failure_rate:
            wait = 0.2 if not self.alive else 0.0
            self._schedule(now + wait, lambda: self._end(now + wait, job, Fate.REFUSED))
            return
        if draw < self.make.failure_rate:
            job.breaks_at = self._random.random()
        job.new_tokens = self._new_tokens(job.turn)[0]
        self._queue.append(job)
        self._next_prefill(now)

    def die(self, now: float) -> None:
        """All that runs breaks off; the cache is gone."""
        self.alive = False
        jobs = [*self._queue, *(job for *_, job in self._active)]
        if self._prefilling is not None:
            jobs.append(self._prefilling)
        started = {id(job) for *_, job in self._active}
        self._queue.clear()
        self._prefilling, self._active = None, []
        self._cache = Cache(self._cache.blocks)
        self._version += 1
        for job in jobs:
            self._end(now, job, Fate.BROKEN if id(job) in started else Fate.REFUSED)

    def _new_tokens(self, turn: Turn) -> tuple[float, int]:
        cached = min(turn.prompt_tokens - 1, self._cache.match(turn.blocks) * self._block_tokens)
        return max(LEAST_PREFILL_TOKENS, turn.prompt_tokens - cached), cached

    def _next_prefill(self, now: float) -> None:
        if self._prefilling is not None or not self._queue or len(self._active) >= self.make.slots:
            return
        job = self._prefilling = self._queue.popleft()
        job.new_tokens, job.cached = self._new_tokens(job.turn)
        self._advance(now)
        share = 1.0 - DECODE_SLOWS_PREFILL * len(self._active) / self.make.slots
        took = job.new_tokens / (self.make.prefill * share) * self._random.lognormvariate(0.0, SCATTER)
        self.busy_seconds += took
        self._schedule(now + took, lambda: self._prefilled(now + took, job))
        self._plan_decode(now)

    def _prefilled(self, now: float, job: Job) -> None:
        if job.over or self._prefilling is not job:
            return
        self._advance(now)
        self._prefilling = None
        self._cache.add(job.turn.blocks)
        length = job.turn.output_tokens - 1
        job.ends_at_level = self._level + (length if job.breaks_at == inf else job.breaks_at * length)
        self._count += 1
        heappush(self._active, (job.ends_at_level, self._count, job))
        job.on_first(now, job.cached)
        self._plan_decode(now)
        self._next_prefill(now)

    def _advance(self, now: float) -> None:
        self._level += (now - self._moved_at) * self._rate()
        self._moved_at = now

    def _rate(self) -> float:
        if not self._active:
            return 0.0
        rate = min(self.make.decode, self.make.batch / len(self._active))
        return rate * (1.0 - PREFILL_SLOWS_DECODE) if self._prefilling is not None else rate

    def _plan_decode(self, now: float) -> None:
        self._version += 1
        if not self._active:
            return
        version = self._version
        then = now + max(0.0, self._active[0][0] - self._level) / self._rate()
        self._schedule(then, lambda: self._decoded(then, version))

    def _decoded(self, now: float, version: int) -> None:
        if version != self._version:
            return
        self._advance(now)
        while self._active and self._active[0][0] <= self._level + 1e-6:
            *_, job = heappop(self._active)
            broke = job.breaks_at != inf
            if not broke:
                self._cache.add(job.turn.later_blocks)
            self._end(now, job, Fate.BROKEN if broke else Fate.DONE)
        self._plan_decode(now)
        self._next_prefill(now)

    def _end(self, now: float, job: Job, fate: Fate) -> None:
        if not job.over:
            job.over = True
            job.on_end(now, fate)
