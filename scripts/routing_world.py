"""Runs a trace through routers and nodes, event by event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from random import Random

from retally.protocol.pricing import PER
from routing_nodes import Fate, Job, Make, SimNode, market
from routing_ours import Ours
from routing_policies import (
    CacheAware,
    LeastLoad,
    LMetric,
    Policy,
    RoundRobin,
    Rule,
    Scorers,
    SessionHash,
    TwoChoices,
    View,
)
from routing_trace import Trace, Turn

ATTEMPTS = 3
#: A router's next try comes after so long at most: full jitter.
RETRY_SECONDS = 0.01
DOWN_SECONDS = 60.0

RULES: dict[str, Callable[..., Rule]] = {
    "round robin": RoundRobin,
    "least load": LeastLoad,
    "p2c": TwoChoices,
    "session hash": SessionHash,
    "cache_aware": CacheAware,
    "scorers": Scorers,
    "scorers+own": partial(Scorers, counts_own=True),
    "lmetric": LMetric,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """Around the nodes: routers, how old their views are, who lies, who goes away."""

    seed: int = 1
    routers: int = 2
    stale_seconds: float = 0.5
    nodes: int = 16
    liars: int = 2
    lie: float = 3.0
    #: Times an hour that a node goes down for a minute.
    churn: float = 0.0
    fails: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What became of one turn."""

    turn: Turn
    first_choice: int = -1
    served_by: int = -1
    ttft: float | None = None
    seconds: float | None = None
    cached: int = 0
    paid: float = 0.0
    broken: bool = False
    predicted_ttft: float | None = None


@dataclass(slots=True)
class Router:
    """One router process."""

    views: list[View]
    policy: Policy


@dataclass
class World:
    """Routers, nodes and a clock."""

    trace: Trace
    setup: Setup
    makes: list[Make]
    policy: str
    now: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    nodes: list[SimNode] = field(default_factory=list)
    routers: list[Router] = field(default_factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        seed = self.setup.seed
        self._random = Random(seed + 1000)
        for number, make in enumerate(self.makes):
            own = Random(seed * 100 + number)
            self.nodes.append(SimNode(make, self.trace.block_tokens, own, self.schedule))
        for number in range(self.setup.routers):
            views = [View() for _ in self.makes]
            policy = make_policy(self.policy, self.makes, views, self, Random(seed * 10 + number))
            self.routers.append(Router(views, policy))

    def schedule(self, at: float, call: Callable[[], None]) -> None:
        """Calls at that moment; calls of one moment in the order of their scheduling."""
        self._count += 1
        heappush(self._events, (at, self._count, call))

    def run(self) -> list[Outcome]:
        """What became of every turn."""
        last = self.trace.turns[-1].at
        for turn in self.trace.turns:
            drawn = self._random.choice(self.routers)
            self.outcomes.append(Outcome(turn))
            self.schedule(turn.at, partial(self._dispatch, drawn, self.outcomes[-1], ()))
        for number, router in enumerate(self.routers):
            phase = self.setup.stale_seconds * number / len(self.routers)
            self.schedule(phase, partial(self._poll, router, last))
        self._plan_churn(last)
        while self._events:
            self.now, _, call = heappop(self._events)
            call()
        return self.outcomes

    def _plan_churn(self, last: float) -> None:
        if not self.setup.churn:
            return
        for node in self.nodes:
            at = self._random.expovariate(self.setup.churn / 3600)
            while at < last:
                self.schedule(at, partial(self._go_down, node))
                self.schedule(at + DOWN_SECONDS, partial(setattr, node, "alive", True))
                at += DOWN_SECONDS + self._random.expovariate(self.setup.churn / 3600)

    def _go_down(self, node: SimNode) -> None:
        node.die(self.now)

    def _poll(self, router: Router, last: float) -> None:
        for number, node in enumerate(self.nodes):
            view = router.views[number]
            view.running, view.waiting = node.running, node.waiting
            view.prefill_tokens, view.alive, view.cache_use = node.prefill_tokens, node.alive, node.cache_use
            view.own_when_read = view.own
            if node.alive:
                router.policy.polled(number)
        if self.now < last:
            self.schedule(self.now + self.setup.stale_seconds, partial(self._poll, router, last))

    def _dispatch(self, router: Router, outcome: Outcome, tried: tuple[int, ...]) -> None:
        number = router.policy.choose(outcome.turn, tried)
        if not tried:
            outcome.first_choice = number
        visit = router.policy.sent(outcome.turn, number)
        router.views[number].own += 1
        half = self.makes[number].rtt / 2

        def first(at: float, cached: int) -> None:
            outcome.cached = cached
            self.schedule(at + half, partial(self._first, router, outcome, number, visit))

        def end(at: float, fate: Fate) -> None:
            self.schedule(at + half, partial(self._end, router, outcome, (*tried, number), visit, fate))

        job = Job(outcome.turn, first, end)
        self.schedule(self.now + half, lambda: self.nodes[number].arrive(self.now, job))

    def _first(self, router: Router, outcome: Outcome, number: int, visit: object) -> None:
        outcome.ttft, outcome.served_by = self.now - outcome.turn.at, number
        router.policy.first_token(visit)

    def _end(self, router: Router, outcome: Outcome, tried: tuple[int, ...], visit: object, fate: Fate) -> None:
        number = tried[-1]
        router.views[number].own -= 1
        router.policy.ended(visit, outcome.turn, fate, outcome.cached)
        if fate is Fate.DONE:
            outcome.seconds = self.now - outcome.turn.at
            outcome.paid = _price(self.makes[number], outcome)
        elif fate is Fate.BROKEN or len(tried) >= min(ATTEMPTS, len(self.nodes)):
            outcome.broken = True
        else:
            wait = self._random.uniform(0.0, RETRY_SECONDS * 2 ** len(tried))
            self.schedule(self.now + wait, partial(self._dispatch, router, outcome, tried))


def _price(make: Make, outcome: Outcome) -> float:
    turn = outcome.turn
    full, cached = turn.prompt_tokens - outcome.cached, outcome.cached * 0.5
    return ((full + cached) * make.price_in + turn.output_tokens * make.price_out) / PER


def make_policy(name: str, makes: Sequence[Make], views: Sequence[View], world: World, random: Random) -> Policy:
    """One router's rule by its name: ours is `retally`, with a preset or without a term after a colon."""
    if name in RULES:
        return RULES[name](makes, views, random, world.trace.block_tokens)
    base, _, variant = name.partition(": ")
    if base != "retally":
        raise SystemExit(f"no policy is called {name!r}; there are {', '.join([*RULES, 'retally'])}")
    preset = variant if variant in ("patient", "eager") else None
    return Ours(makes, views, random, lambda: world.now, preset=preset, without="" if preset else variant)


def simulate(trace: Trace, policy: str, setup: Setup) -> World:
    """One run."""
    makes = market(setup.seed, count=setup.nodes, liars=setup.liars, lie=setup.lie)
    makes = [replace(make, failure_rate=make.failure_rate * setup.fails) for make in makes]
    world = World(trace, setup, makes, policy)
    world.run()
    return world
