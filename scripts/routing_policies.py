"""How a router picks a node: the rules of others, re-told from their documentation, and our own, imported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from retally_router.prefix_map import PrefixMap
from routing_nodes import Fate, Make
from routing_trace import Turn


@dataclass(slots=True)
class View:
    """A node as one router last read it, and what that router has under way there."""

    running: int = 0
    waiting: int = 0
    prefill_tokens: float = 0.0
    cache_use: float = 0.0
    alive: bool = True
    own: int = 0
    own_when_read: int = 0

    @property
    def load(self) -> int:
        """Jobs there: others' as last read, ours as they are."""
        return max(0, self.running + self.waiting - self.own_when_read) + self.own


class Policy(Protocol):
    """One router's rule; nodes are numbers."""

    def choose(self, turn: Turn, tried: Collection[int]) -> int:
        """The node for a turn that some have refused already."""
        ...

    def sent(self, turn: Turn, node: int) -> object:
        """It goes there; what comes back is handed to the calls below."""
        ...

    def first_token(self, visit: object) -> None:
        """The first token came."""
        ...

    def ended(self, visit: object, turn: Turn, fate: Fate, cached: int) -> None:
        """The job ended there."""
        ...

    def polled(self, node: int) -> None:
        """The node's view is fresh."""
        ...


@dataclass
class Rule:
    """A rule that learns nothing; its router keeps the views."""

    makes: Sequence[Make]
    views: Sequence[View]
    random: Random
    block_tokens: int
    prefixes: PrefixMap = field(default_factory=PrefixMap)

    def choose(self, turn: Turn, tried: Collection[int]) -> int:
        """Among those that look alive and have not refused."""
        left = [node for node in range(len(self.makes)) if node not in tried and self.views[node].alive]
        return self.pick(turn, left or [node for node in range(len(self.makes)) if node not in tried])

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """The rule itself."""
        raise NotImplementedError

    def sent(self, turn: Turn, node: int) -> object:
        """The prompt lies there from now on."""
        self.prefixes.sent(str(node), turn.links)
        return node

    def first_token(self, visit: object) -> None:
        """Nothing to learn."""

    def ended(self, visit: object, turn: Turn, fate: Fate, cached: int) -> None:
        """Nothing to learn."""

    def polled(self, node: int) -> None:
        """Nothing to do."""

    def cached_tokens(self, turn: Turn, node: int) -> float:
        """Prompt tokens that should lie in the node's cache."""
        return min(turn.prompt_tokens, self.prefixes.matched(str(node), turn.links) * self.block_tokens)

    def least(self, nodes: Sequence[int], scores: Sequence[float]) -> int:
        """The node with the least score, drawn among equals."""
        best = min(scores)
        return self.random.choice([node for node, score in zip(nodes, scores, strict=True) if score == best])


@dataclass
class RoundRobin(Rule):
    """Each in turn."""

    turn_of: int = 0

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """The next."""
        self.turn_of += 1
        return nodes[self.turn_of % len(nodes)]


class LeastLoad(Rule):
    """Where the fewest jobs are."""

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """The emptiest."""
        return self.least(nodes, [self.views[node].load for node in nodes])


class TwoChoices(Rule):
    """The emptier of two drawn nodes (p2c)."""

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """Draws two."""
        pair = self.random.sample(list(nodes), min(2, len(nodes)))
        return self.least(pair, [self.views[node].load for node in pair])


class SessionHash(Rule):
    """A conversation stays where it is."""

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """Rendezvous hashing, so that a dead node moves only its own sessions."""
        return max(nodes, key=lambda node: Random(turn.session * 1009 + node).random())


class CacheAware(Rule):
    """SGLang's rule: the best prefix match while loads are even, else the shortest queue; by in-flight counts."""

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """Balances beyond 32 jobs and 10 % of difference; a match counts from half the prompt."""
        loads = [self.views[node].load for node in nodes]
        if max(loads) - min(loads) > 32 and max(loads) > 1.1 * min(loads):
            return self.least(nodes, loads)
        matched = [self.cached_tokens(turn, node) / turn.prompt_tokens for node in nodes]
        if max(matched) > 0.5:
            return self.least(nodes, [-share for share in matched])
        return self.least(nodes, [self.prefixes.size(str(node)) for node in nodes])


@dataclass
class Scorers(Rule):
    """llm-d's weighted scorers: prefix 3, queue 2, cache use 2, each in [0, 1]; the highest sum."""

    #: With own dispatches counted at once (its active-request scorer), or the polled queue alone (its default).
    counts_own: bool = False

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """Queue depths are scaled between the least and the most."""
        views = [self.views[node] for node in nodes]
        depths = [view.load if self.counts_own else view.waiting for view in views]
        low, high = min(depths), max(depths)
        scores = []
        for node, view, depth in zip(nodes, views, depths, strict=True):
            prefix = self.cached_tokens(turn, node) / turn.prompt_tokens
            queue = 1.0 if high == low else (high - depth) / (high - low)
            scores.append(-(3 * prefix + 2 * queue + 2 * (1 - view.cache_use)))
        return self.least(nodes, scores)


class LMetric(Rule):
    """New prefill tokens times batch size, nothing to tune (arXiv 2603.15202)."""

    def pick(self, turn: Turn, nodes: Sequence[int]) -> int:
        """The product counts what waits already."""
        scores = []
        for node in nodes:
            view = self.views[node]
            new = view.prefill_tokens + turn.prompt_tokens - self.cached_tokens(turn, node)
            scores.append(new * (view.load + 1))
        return self.least(nodes, scores)
