"""A node of the tests that keeps time: prompts wait for each other, streams share the decode rate, prefixes stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes_router import FakeNode

from retally.protocol.wire import JobSubmission
from retally_router.ports import RegisteredNode
from routing_nodes import LEAST_PREFILL_TOKENS, Make
from routing_trace import BLOCK_TOKENS


@dataclass
class PacedNode(FakeNode):
    """Signs for real, answers with the toy model, as quickly as its make says."""

    make: Make = field(kw_only=True)
    streams: int = 0
    waiting: int = 0
    took: float = 0.0
    #: From a job's arrival to its first token, for each.
    spent: list[float] = field(default_factory=list)
    _prefill: asyncio.Lock = field(default_factory=asyncio.Lock)
    _prefill_tokens: int = 0
    _known: set[int] = field(default_factory=set)
    _cached: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.price_in, self.price_out, self.max_context = self.make.price_in, self.make.price_out, 32_768
        self._count_streams(0)

    def registered(self) -> RegisteredNode:
        """With the make's stake."""
        return replace(super().registered(), stake=self.make.stake)

    def info(self) -> dict[str, Any]:
        """What it declares may be more than it can."""
        make = self.make
        rates = {"prefill": make.prefill, "decode": make.decode, "batch": make.batch}
        load = {"running": self.streams, "waiting": self.waiting, "prefillTokens": self._prefill_tokens}
        return {**super().info(), "capacity": {k: int(v * make.declares) for k, v in rates.items()}, "load": load}

    def forget(self) -> None:
        """An empty cache, and nothing noted."""
        self._known.clear()
        self.spent.clear()

    def cached_tokens(self, job: JobSubmission) -> int:
        """What of the prompt was there."""
        return self._cached.get(bytes(job.request.nonce), 0)

    async def _stream(self, job: JobSubmission, line: Any, send: Any) -> None:
        words = str(job.prompt["prompt"]).split()
        links, last = [], 0
        for start in range(0, len(words) // BLOCK_TOKENS * BLOCK_TOKENS, BLOCK_TOKENS):
            last = hash((last, tuple(words[start : start + BLOCK_TOKENS])))
            links.append(last)
        self._prefill_tokens += len(words)
        self.waiting += 1
        came = asyncio.get_running_loop().time()
        try:
            await self._compute(job, words, links)
        finally:
            self._prefill_tokens -= len(words)
            self.waiting -= 1
        self._count_streams(1)
        self.spent.append(asyncio.get_running_loop().time() - came + self.seconds_per_token)
        try:
            await super()._stream(job, line, send)
        finally:
            self._count_streams(-1)

    def _count_streams(self, more: int) -> None:
        self.streams += more
        self.seconds_per_token = max(1.0 / self.make.decode, self.streams / self.make.batch)

    async def _compute(self, job: JobSubmission, words: list[str], links: list[int]) -> None:
        await self._prefill.acquire()
        found = next((number for number, link in enumerate(links) if link not in self._known), len(links))
        cached = min(len(words) - 1, found * BLOCK_TOKENS)
        self._cached[bytes(job.request.nonce)] = cached
        self.took = max(LEAST_PREFILL_TOKENS, len(words) - cached) / self.make.prefill
        # The prefill makes the first token, for which the stream waits once more: so it starts a step early.
        asyncio.get_running_loop().call_later(self.took, self._prefill.release)
        await asyncio.sleep(max(0.0, self.took - self.seconds_per_token))
        self._known.update(links)
