"""Engines that run another job than the signed one; the node around them stays honest and signs what they say.

Scores, which others buy and jurors need, stay true: each of these tells one lie.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import numpy as np

from retally.inference.engine import Engine, EngineChunk, EngineInfo, EngineSampling, Scores
from retally.protocol.encoding import keccak
from retally.protocol.params import ONE, JobParams

#: What the payer asked for, times this: a colder sampler repeats itself more and looks surer than it is.
COLDER = 0.5
#: The logprob, in nats, that a false score gives to each token of somebody else's answer.
UNLIKELY = -14.0


class Wrapper:
    """The parts of an engine about which no lie is told (its owner also sits on juries and scores for others)."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        return self._inner.generate(prompt_ids, sampling)

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        return await self._inner.score(ids, start, top)

    async def check(self) -> EngineInfo:
        return await self._inner.check()

    async def close(self) -> None:
        await self._inner.close()


class OtherParams(Wrapper):
    """Samples by other rules than those that were signed."""

    def change(self, params: JobParams) -> JobParams:
        raise NotImplementedError

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        return self._inner.generate(prompt_ids, replace(sampling, params=self.change(sampling.params)))


class OtherSampler(OtherParams):
    """Serves the right weights with another temperature than the one that was signed."""

    def __init__(self, inner: Engine, factor: float = COLDER) -> None:
        super().__init__(inner)
        self._factor = factor

    def change(self, params: JobParams) -> JobParams:
        return replace(params, temperature=int(params.temperature * self._factor))


class NucleusOff(OtherParams):
    """Leaves top-k, top-p and min-p out: sorting a vocabulary costs time."""

    def change(self, params: JobParams) -> JobParams:
        return replace(params, top_k=0, top_p=ONE, min_p=0)


class Greedy(OtherParams):
    """Takes the likeliest token and claims the seed's."""

    def change(self, params: JobParams) -> JobParams:
        return replace(params, temperature=0)


class OtherSeed(Wrapper):
    """Samples under a seed of its own."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        return self._inner.generate(prompt_ids, replace(sampling, seed=keccak(sampling.seed)))


class HiddenPrompt(Wrapper):
    """Slips a system message into the payer's conversation and claims the payer's prompt alone."""

    def __init__(self, inner: Engine, before: int, hidden_ids: Sequence[int]) -> None:
        """`before` ids of each prompt (the start of a sequence) stay in front of the hidden ones."""
        super().__init__(inner)
        self._before = before
        self._hidden_ids = list(hidden_ids)

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        start, rest = prompt_ids[: self._before], prompt_ids[self._before :]
        return self._inner.generate([*start, *self._hidden_ids, *rest], sampling)


class CutPrompt(Wrapper):
    """Reads the later half of a prompt and bills the whole of it."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        given = sampling.position
        prompt, answer = prompt_ids[: len(prompt_ids) - given], prompt_ids[len(prompt_ids) - given :]
        return self._inner.generate([prompt[0], *prompt[1 + len(prompt) // 2 :], *answer], sampling)


class WritesWith(Wrapper):
    """Cheaper weights write the answer; scores come from the genuine ones, so that nothing else is amiss."""

    def __init__(self, genuine: Engine, cheaper: Engine) -> None:
        super().__init__(genuine)
        self._cheaper = cheaper

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        return self._cheaper.generate(prompt_ids, sampling)

    async def close(self) -> None:
        await self._cheaper.close()
        await super().close()


class Seldom(Wrapper):
    """Cheats on one job in so many and serves the others honestly."""

    def __init__(self, honest: Engine, cheating: Engine, one_in: int) -> None:
        super().__init__(honest)
        self._cheating = cheating
        self._one_in = one_in
        self._jobs = 0

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        self._jobs += 1
        engine = self._cheating if self._jobs % self._one_in == 0 else self._inner
        return engine.generate(prompt_ids, sampling)


class FalseScores(Wrapper):
    """Serves honestly, and scores every answer that it is asked about as if another token had been certain."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        true = await self._inner.score(ids, start, top)
        numbers = np.full_like(true.top_logprobs, UNLIKELY)
        for row, claimed in enumerate(ids[start:]):
            numbers[row, int(true.top_ids[row, 0] == claimed)] = 0.0
        order = np.argsort(-numbers, axis=1, kind="stable")
        return replace(
            true,
            top_ids=np.take_along_axis(true.top_ids, order, axis=1),
            top_logprobs=np.take_along_axis(numbers, order, axis=1),
            claimed_logprobs=np.full_like(true.claimed_logprobs, UNLIKELY),
        )
