"""Working stand-ins for the ports, for fast tests: no engine, no chain, no clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from retally.errors import EngineUnavailable
from retally.inference.engine import FINISH_LENGTH, FINISH_STOP, EngineChunk, EngineInfo, EngineSampling, Scores
from retally.inference.grammar import GrammarBook
from retally.protocol.encoding import keccak
from retally.protocol.sampler import log_softmax, sample_token


class FakeEngine:
    """A toy language model with the real sampler: each token's logits are a hash of the two ids before it."""

    def __init__(
        self,
        vocab_size: int = 4096,
        eos_id: int = 1,
        max_context: int = 1024,
        model: str = "retally/fake",
        delay_seconds: float = 0.0,
        cached_tokens: int = 0,
    ) -> None:
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.max_context = max_context
        self.model = model
        self.delay_seconds = delay_seconds
        self.cached_tokens = cached_tokens
        #: Set to break the engine after so many more tokens.
        self.fails_after: int | None = None
        #: Requests running now and tokens produced ever, for tests of cancellation.
        self.running = 0
        self.produced = 0
        self.closed = False
        #: What masks an answer of a given form; without it the engine ignores the form, as a cheat would.
        self.grammars: GrammarBook | None = None

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the toy model's logits for the token after `ids`."""
        key = keccak(b"".join(int(i).to_bytes(4, "big") for i in ids[-2:]))
        row = np.random.default_rng(int.from_bytes(key[:8], "big")).normal(0.0, 2.0, self.vocab_size)
        row[self.eos_id] += 2.0
        return row.astype(np.float32)

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        """Stream one token a chunk."""
        ids = list(prompt_ids)
        start = len(ids) - sampling.position
        self.running += 1
        try:
            for n in range(sampling.max_new_tokens):
                await asyncio.sleep(self.delay_seconds)
                if self.fails_after is not None and self.produced >= self.fails_after:
                    raise EngineUnavailable("the fake engine was told to fail")
                chunk = self._next(ids, start, sampling, n + 1 == sampling.max_new_tokens)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self.running -= 1

    def _next(self, ids: list[int], start: int, sampling: EngineSampling, is_last: bool) -> EngineChunk:
        logits = self.logits(ids)
        answer = ids[start:]
        mask = None
        if sampling.grammar and self.grammars is not None:
            mask = self.grammars.start(sampling.grammar, sampling.eos_ids, answer).mask()
        token = sample_token(
            logits, sampling.params, sampling.seed, len(answer), ids[:start], answer, sampling.eos_ids, mask
        )  # fmt: skip
        ids.append(token)
        self.produced += 1
        logprobs = log_softmax(logits)
        top = None
        if sampling.logprobs:
            ranked = np.argsort(-logprobs, kind="stable")[: sampling.logprobs]
            top = ({int(i): float(logprobs[i]) for i in ranked},)
        finish = FINISH_STOP if token in sampling.eos_ids else FINISH_LENGTH if is_last else None
        cached = self.cached_tokens if finish else 0
        return EngineChunk((token,), (float(logprobs[token]),), top, finish, cached)

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        """Score by the same toy model."""
        rows = [log_softmax(self.logits(ids[:n])) for n in range(start, len(ids))]
        ranked = [np.argsort(-row, kind="stable")[:top] for row in rows]
        return Scores(
            start,
            np.array(ranked, dtype=np.int32).reshape(len(rows), top),
            np.array([row[r] for row, r in zip(rows, ranked, strict=True)], dtype=np.float32).reshape(len(rows), top),
            np.array([row[ids[start + n]] for n, row in enumerate(rows)], dtype=np.float32),
        )

    async def check(self) -> EngineInfo:
        """Report full abilities."""
        return EngineInfo(
            model=self.model, max_context=self.max_context, version="fake", has_sampler=True, has_prompt_logprobs=True
        )  # fmt: skip

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class FakeEmbedder(FakeEngine):
    """An engine that pools: a text's vector is a hash of its ids."""

    #: Vectors made ever, and what the next ones are multiplied by.
    embedded = 0
    factor = 1.0
    #: Rows that a broken one leaves out.
    missing = 0

    async def embed(self, inputs: Sequence[Sequence[int]], dimensions: int) -> NDArray[np.float32]:
        """A row for each input."""
        if self.fails_after is not None and self.embedded >= self.fails_after:
            raise EngineUnavailable("the fake engine was told to fail")
        await asyncio.sleep(self.delay_seconds)
        self.embedded += len(inputs)
        rows = [np.random.default_rng([*ids]).normal(0.0, 1.0, dimensions) for ids in inputs[self.missing :]]
        return (np.array(rows) * self.factor).astype(np.float32)
