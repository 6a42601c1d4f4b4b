"""Engines that lie to the node's payers; the node around them stays honest and signs what they say.

A node with cheaper weights needs no class here: it is the real node, attached to another engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from retally.inference.engine import Engine, EngineChunk, EngineInfo, EngineSampling, Scores

#: What the payer asked for, times this: a colder sampler repeats itself more and looks surer than it is.
COLDER = 0.5


class _Wrapper:
    """The parts of an engine about which no lie is told (its owner also sits on juries and scores for others)."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        return await self._inner.score(ids, start, top)

    async def check(self) -> EngineInfo:
        return await self._inner.check()

    async def close(self) -> None:
        await self._inner.close()


class OtherSampler(_Wrapper):
    """Serves the right weights with another temperature than the one that was signed."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        colder = int(sampling.params.temperature * COLDER)
        return self._inner.generate(prompt_ids, replace(sampling, params=replace(sampling.params, temperature=colder)))


class HiddenPrompt(_Wrapper):
    """Slips a system message into the payer's conversation and claims the payer's prompt alone."""

    def __init__(self, inner: Engine, before: int, hidden_ids: Sequence[int]) -> None:
        """`before` ids of each prompt (the start of a sequence) stay in front of the hidden ones."""
        super().__init__(inner)
        self._before = before
        self._hidden_ids = list(hidden_ids)

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        start, rest = prompt_ids[: self._before], prompt_ids[self._before :]
        return self._inner.generate([*start, *self._hidden_ids, *rest], sampling)
