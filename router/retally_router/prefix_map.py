"""Which nodes have seen which prompt prefixes: chained block hashes per node, bounded, oldest out, expiring."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

BLOCK_BYTES = 512
MOST_BLOCKS = 256


def chain(blocks: Iterable[Hashable]) -> tuple[int, ...]:
    """One hash per block, each over all blocks before it too: two prompts share a hash exactly as far as they agree.

    Python's keyed hash is enough: the values never leave the process, and outsiders don't know its key.
    """
    links, last = [], 0
    for block in blocks:
        last = hash((last, block))
        links.append(last)
    return tuple(links)


def chain_of_bytes(raw: bytes) -> tuple[int, ...]:
    """The chain over whole blocks of a prompt's bytes; a rest that fills no block counts as nothing."""
    end = min(len(raw), MOST_BLOCKS * BLOCK_BYTES) // BLOCK_BYTES * BLOCK_BYTES
    return chain(raw[start : start + BLOCK_BYTES] for start in range(0, end, BLOCK_BYTES))


@dataclass(frozen=True, slots=True)
class _Session:
    node: str
    last: int
    blocks: int
    tokens: float
    at: float


@dataclass(slots=True)
class PrefixMap:
    """What the nodes' caches should hold, as far as this router sent it there."""

    blocks_per_node: int = 4096
    sessions: int = 10_000
    expire_seconds: float = 900.0
    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, OrderedDict[int, float]] = field(default_factory=dict)
    _sessions: OrderedDict[Hashable, _Session] = field(default_factory=OrderedDict)

    def matched(self, node: str, links: Sequence[int]) -> int:
        """How many of the chain's blocks the node should have."""
        known = self._nodes.get(node)
        if not known or not links:
            return 0
        oldest = self.clock() - self.expire_seconds
        # Whoever knows a block knows all before it, no older: so the end can be searched for by halves.
        low, high = 0, len(links)
        while low < high:
            middle = (low + high) // 2
            if known.get(links[middle], oldest) > oldest:
                low = middle + 1
            else:
                high = middle
        return low

    def cached_tokens(self, node: str, links: Sequence[int], prompt_tokens: float, session: Hashable = None) -> float:
        """Prompt tokens that the node need not compute: of the session's last turn if it goes on, else by blocks."""
        if not links:
            return 0.0
        cached = prompt_tokens * self.matched(node, links) / (len(links) + 0.5)
        known = self._sessions.get(session) if session is not None else None
        if known is not None and known.node == node and self._goes_on(known, links):
            cached = max(cached, known.tokens)
        return min(cached, prompt_tokens - 1)

    def sent(self, node: str, links: Sequence[int]) -> None:
        """The node computes this prompt now."""
        known = self._nodes.setdefault(node, OrderedDict())
        now = self.clock()
        for link in reversed(links[: self.blocks_per_node]):
            # From the end: a prefix is always as young as what follows it, so the tail is dropped first.
            known[link] = now
            known.move_to_end(link)
        while len(known) > self.blocks_per_node:
            known.popitem(last=False)

    def answered(self, node: str, links: Sequence[int], tokens: float, session: Hashable = None) -> None:
        """The session's last turn, prompt and answer, lies in that node's cache."""
        if session is None or not links:
            return
        self._sessions[session] = _Session(node, links[-1], len(links), tokens, self.clock())
        self._sessions.move_to_end(session)
        while len(self._sessions) > self.sessions:
            self._sessions.popitem(last=False)

    def forget(self, node: str) -> None:
        """The node was restarted or is gone."""
        self._nodes.pop(node, None)

    def size(self, node: str) -> int:
        """Blocks remembered of a node."""
        return len(self._nodes.get(node, ()))

    def _goes_on(self, known: _Session, links: Sequence[int]) -> bool:
        fresh = known.at > self.clock() - self.expire_seconds
        return fresh and len(links) >= known.blocks and links[known.blocks - 1] == known.last
