"""What the router saw of each node: how far from its word it is, failures, work under way, what its cache holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import exp, log
from random import Random, SystemRandom

from retally_router.breaker import Breaker
from retally_router.predict import Capacity, Prediction
from retally_router.prefix_map import PrefixMap

DAY_SECONDS = 86_400.0
WEIGHT = 0.1
RELIABILITY_WEIGHT = 0.05
SHARE_WEIGHT = 0.02
FIRST_P_OK = 0.98
#: A ratio outside says more about the clock than about the node.
SLOWEST, QUICKEST = 50.0, 0.02
#: Guesses before anything was learned: tokens per byte-bounded prompt token, and how much of its limit an answer uses.
FIRST_PROMPT_SHARE = 0.3
FIRST_OUTPUT_SHARE = 0.5


@dataclass(slots=True)
class Expectation:
    """What a job is expected to be on one node."""

    prediction: Prediction
    #: The most that the job can cost there.
    price: int = 0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    #: The most tokens that prompt and answer may have; a prompt whose count is known has no bound.
    prompt_bound: int = 0
    output_bound: int = 0
    links: tuple[int, ...] = ()
    session: Hashable = None


@dataclass(slots=True)
class Observed:
    """One node as seen from here."""

    breaker: Breaker
    slow_prefill: float = 1.0
    slow_decode: float = 1.0
    #: Which part of what the cache should hold it did hold.
    cache_trust: float = 1.0
    p_ok: float = FIRST_P_OK
    rtt_seconds: float = 0.0
    in_flight: int = 0
    prefilling: float = 0.0
    others_streams: int = 0
    others_prefill: float = 0.0
    reported_at: float = 0.0
    begun: int = 0
    finished: int = 0
    prefill_samples: int = 0
    decode_samples: int = 0
    last_seen: float = 0.0
    #: The most that the jobs out there may cost, and what failed ones might have, since a moment within the last day.
    at_risk: int = 0
    lost: int = 0
    lost_since: float = 0.0
    cheated: str | None = None

    def lost_lately(self, now: float) -> int:
        """What failed jobs might have cost, counted anew each day."""
        if now - self.lost_since > DAY_SECONDS:
            self.lost_since, self.lost = now, 0
        return self.lost

    @property
    def streams(self) -> int:
        """Streams there: others' as last reported, ours as they are."""
        return self.others_streams + self.in_flight

    def queued_tokens(self, now: float, capacity: Capacity) -> float:
        """Prompt tokens that wait there: others' as last reported, less what was done since, and ours as they are."""
        if not self.others_prefill:
            return self.prefilling
        done = (now - self.reported_at) * capacity.prefill / self.slow_prefill
        return max(0.0, self.others_prefill - done) + self.prefilling


@dataclass(slots=True)
class Visit:
    """One job on one node, from its dispatch to its end, however it ends."""

    node: str
    expected: Expectation | None
    _watch: Watch
    _seen: Observed
    _began_at: float
    _streams: int
    _is_probe: bool
    _first_at: float | None = None
    _over: bool = False

    def first_token(self) -> None:
        """Learns from the time to the first token; later calls change nothing."""
        if self._first_at is not None or self._over:
            return
        self._first_at = self._watch.clock()
        self._leave_prefill()
        if self.expected is None:
            return
        seen, took = self._seen, self._first_at - self._began_at - self._seen.rtt_seconds
        declared = self.expected.prediction.declared_prefill_seconds
        seen.slow_prefill = _learn(seen.slow_prefill, took / declared, seen.prefill_samples)
        seen.prefill_samples += 1

    def succeeded(self, output_tokens: int, prompt_tokens: int = 0, cached_tokens: int | None = None) -> None:
        """Learns from a whole answer with receipts that hold; tokens are those of one choice."""
        now, seen, expected = self._watch.clock(), self._seen, self.expected
        seen.p_ok += RELIABILITY_WEIGHT * (1.0 - seen.p_ok)
        seen.finished += 1
        seen.last_seen = now
        seen.breaker.succeeded()
        self._is_probe = False
        if expected is None:
            return
        self._watch.measured(expected, prompt_tokens, output_tokens)
        if output_tokens > 1 and self._first_at is not None:
            pace = (now - self._first_at) / (output_tokens - 1)
            ratio = pace / expected.prediction.declared_token_seconds
            seen.slow_decode = _learn(seen.slow_decode, ratio, seen.decode_samples)
            seen.decode_samples += 1
        if cached_tokens is not None and expected.cached_tokens >= 1.0:
            held = min(1.0, cached_tokens / expected.cached_tokens)
            seen.cache_trust += WEIGHT * (held - seen.cache_trust)
        whole = (prompt_tokens or expected.prompt_tokens) + output_tokens
        self._watch.prefixes.answered(self.node, expected.links, whole, expected.session)

    def failed(self) -> None:
        """Learns from a failure; enough in a row open the breaker for a while."""
        seen = self._seen
        seen.p_ok -= RELIABILITY_WEIGHT * seen.p_ok
        seen.lost_lately(self._watch.clock())
        seen.lost += self.expected.price if self.expected is not None else 0
        seen.breaker.failed(self._watch.clock(), self._watch.random.random())
        self._is_probe = False

    def cheated(self, what: str) -> None:
        """Shuts the node out: what it signed contradicts what it delivered."""
        self._seen.cheated = what

    def end(self) -> None:
        """The job left the node; later calls change nothing."""
        if self._over:
            return
        self._leave_prefill()
        self._over = True
        self._seen.in_flight -= self._streams
        self._seen.at_risk -= self.expected.price if self.expected is not None else 0
        if self._is_probe:
            self._seen.breaker.ended()

    def _leave_prefill(self) -> None:
        if self.expected is not None and not self._over and self._seen.prefilling:
            self._seen.prefilling = max(0.0, self._seen.prefilling - self.expected.prediction.new_tokens)


@dataclass(slots=True)
class Watch:
    """All nodes as seen from here."""

    breaker_failures: int
    breaker_seconds: float
    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=SystemRandom)
    prefixes: PrefixMap = field(default_factory=PrefixMap)
    prompt_share: float = FIRST_PROMPT_SHARE
    output_share: float = FIRST_OUTPUT_SHARE
    _nodes: dict[str, Observed] = field(default_factory=dict)

    def of(self, node: str) -> Observed:
        """What was seen of a node."""
        seen = self._nodes.get(node)
        if seen is None:
            seen = self._nodes[node] = Observed(Breaker(self.breaker_failures, self.breaker_seconds))
        return seen

    def visit(self, node: str, expected: Expectation | None = None, *, streams: int = 1) -> Visit:
        """A job goes there; counts at once, before the node's next report of its load."""
        seen, now = self.of(node), self.clock()
        seen.in_flight += streams
        seen.begun += 1
        if expected is not None:
            seen.prefilling += expected.prediction.new_tokens
            seen.at_risk += expected.price
            self.prefixes.sent(node, expected.links)
        return Visit(node, expected, self, seen, now, streams, seen.breaker.began(now))

    def reported(self, node: str, *, streams: int, prefill_tokens: float, rtt_seconds: float) -> None:
        """A node's own report of its load; what is ours of it is counted here already."""
        seen = self.of(node)
        seen.others_streams = max(0, streams - seen.in_flight)
        seen.others_prefill = max(0.0, prefill_tokens - seen.prefilling)
        seen.rtt_seconds = rtt_seconds
        seen.reported_at = self.clock()

    def measured(self, expected: Expectation, prompt_tokens: int, output_tokens: int) -> None:
        """How long a prompt and an answer turned out to be, beside their bounds."""
        if expected.prompt_bound and prompt_tokens:
            share = min(1.0, prompt_tokens / expected.prompt_bound)
            self.prompt_share += SHARE_WEIGHT * (share - self.prompt_share)
        if expected.output_bound:
            share = min(1.0, output_tokens / expected.output_bound)
            self.output_share += SHARE_WEIGHT * (share - self.output_share)

    def is_open(self, node: str) -> bool:
        """Whether the node may get work."""
        seen = self._nodes.get(node)
        return seen is None or (seen.cheated is None and not seen.breaker.is_open(self.clock()))

    def is_shut_out(self, node: str) -> bool:
        """Whether the node was caught at cheating."""
        seen = self._nodes.get(node)
        return seen is not None and seen.cheated is not None


def _learn(known: float, ratio: float, samples: int) -> float:
    # In logarithms: twice as slow and twice as quick are equally far away. The first samples weigh more.
    weight = max(WEIGHT, 1.0 / (samples + 2))
    wanted = log(min(SLOWEST, max(QUICKEST, ratio)))
    return exp(log(known) + weight * (wanted - log(known)))
