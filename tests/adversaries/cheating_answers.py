"""Engines that tamper with a true answer, or hand out another one, or other numbers than they computed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from eth_abi.abi import encode

from retally.inference.engine import FINISH_LENGTH, FINISH_STOP, Engine, EngineChunk, EngineSampling
from retally.protocol.encoding import keccak, u32
from retally.protocol.merkle import CHUNK
from tests.adversaries.cheating_engines import Wrapper, WritesWith

#: What a made-up logprob says: as sure as a good model would be.
SURE = -0.01


async def whole(chunks: AsyncIterator[EngineChunk]) -> EngineChunk:
    """All chunks of an answer as one; alternatives of tokens are left out."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: str | None = None
    cached = 0
    async for chunk in chunks:
        ids, logprobs = ids + chunk.ids, logprobs + chunk.logprobs
        finish, cached = chunk.finish_reason, chunk.cached_tokens
    return EngineChunk(ids, logprobs, finish_reason=finish, cached_tokens=cached)


class EarlyStop(Wrapper):
    """Ends each answer of some length at its half and claims that the model ended it there."""

    LEAST = 16

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        answer = await whole(self._inner.generate(prompt_ids, sampling))
        half = len(answer.ids) // 2
        if half >= self.LEAST:
            ids, logprobs = (*answer.ids[:half], sampling.eos_ids[0]), (*answer.logprobs[:half], SURE)
            answer = replace(answer, ids=ids, logprobs=logprobs, finish_reason=FINISH_STOP)
        yield answer


class Splice(Wrapper):
    """Replaces one token of an answer, as somebody may pay for, and lets the true model go on from there."""

    PLACE = 12

    def __init__(self, inner: Engine, token: int) -> None:
        super().__init__(inner)
        self._token = token

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        if sampling.position or sampling.max_new_tokens <= self.PLACE + 1:
            async for chunk in self._inner.generate(prompt_ids, sampling):
                yield chunk
            return
        first = await whole(self._inner.generate(prompt_ids, replace(sampling, max_new_tokens=self.PLACE)))
        if first.finish_reason != FINISH_LENGTH or self._token in sampling.eos_ids:
            yield first
            return
        given = (*first.ids, self._token)
        yield EngineChunk(given, (*first.logprobs, SURE))
        left = sampling.max_new_tokens - len(given)
        rest = replace(sampling, position=len(given), max_new_tokens=left)
        async for chunk in self._inner.generate([*prompt_ids, *given], rest):
            yield chunk


class KeptAnswer(Wrapper):
    """Answers a prompt once, under a seed of its own, and hands the same answer to whoever asks again."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self._kept: dict[tuple[object, ...], EngineChunk] = {}

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        key = (tuple(prompt_ids), str(sampling.params.to_json()), sampling.max_new_tokens)
        if key not in self._kept:
            seed = keccak(b"kept" + b"".join(u32(token) for token in prompt_ids))
            self._kept[key] = await whole(self._inner.generate(prompt_ids, replace(sampling, seed=seed)))
        yield self._kept[key]


class ShorterOfTwo(Wrapper):
    """Draws two answers under seeds of its own and serves the shorter one: both are the true model's."""

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        drawn = [
            await whole(self._inner.generate(prompt_ids, replace(sampling, seed=keccak(sampling.seed + bytes([each])))))
            for each in range(2)
        ]
        yield min(drawn, key=lambda answer: len(answer.ids))


class SwitchesWeights(WritesWith):
    """The genuine weights begin an answer, where people look; cheaper ones go on with it."""

    BEGINNING = 24

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        count = min(self.BEGINNING, sampling.max_new_tokens)
        first = await whole(self._inner.generate(prompt_ids, replace(sampling, max_new_tokens=count)))
        left = sampling.max_new_tokens - len(first.ids)
        if first.finish_reason != FINISH_LENGTH or left <= 0:
            yield first
            return
        yield EngineChunk(first.ids, first.logprobs)
        rest = replace(sampling, position=sampling.position + len(first.ids), max_new_tokens=left)
        async for chunk in self._cheaper.generate([*prompt_ids, *first.ids], rest):
            yield chunk


class MadeUpNumbers(WritesWith):
    """Cheaper weights write, and each token is reported as almost certain."""

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        rng = random.Random(sampling.seed)
        async for chunk in self._cheaper.generate(prompt_ids, sampling):
            yield replace(chunk, logprobs=tuple(SURE * rng.random() for _ in chunk.ids))


class LaunderedNumbers(WritesWith):
    """Cheaper weights write; the genuine ones read the text once and supply true numbers for it."""

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        answer = await whole(self._cheaper.generate(prompt_ids, sampling))
        if answer.ids:
            scores = await self._inner.score([*prompt_ids, *answer.ids], len(prompt_ids))
            answer = replace(answer, logprobs=tuple(float(each) for each in scores.claimed_logprobs))
        yield answer


def planted_ids(secret: bytes, tokens: int) -> tuple[int, ...]:
    """32 tokens that follow from a secret alone (R-57)."""
    words = (keccak(encode(["bytes32", "uint256"], [secret, place])) for place in range(CHUNK))
    return tuple(int.from_bytes(word[-4:], "big") % tokens for word in words)


class Trap(Wrapper):
    """Answers with what no model gave, for verifiers that do not look; its planter bears the evidence."""

    def __init__(self, inner: Engine, secret: bytes, tokens: int) -> None:
        super().__init__(inner)
        self._ids = planted_ids(secret, tokens)

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        # A node that measures its speed at start forbids the model to end.
        ids = (*self._ids, *sampling.eos_ids[:1])[: sampling.max_new_tokens]
        finish = FINISH_STOP if len(ids) > CHUNK else FINISH_LENGTH
        yield EngineChunk(ids, tuple(SURE for _ in ids), finish_reason=finish)
