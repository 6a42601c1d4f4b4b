"""Honest set-ups: running engines, the reference implementation, nodes of a market; each answers, scores or both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from retally.errors import BadRequest, EngineUnavailable, RetallyError
from retally.inference.engine import Engine, EngineSampling
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.encoding import to_hex
from retally.protocol.margins import TOP, ReplayScores
from retally.verify_job import Scorer
from retally_verifier.calibrate.canaries import Answer, Job


class SetUp(Protocol):
    """One honest set-up."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def owner(self) -> str:
        """Who runs it: set-ups of one owner are not unrelated."""
        ...

    @property
    def answers(self) -> bool:
        """Whether it samples answers, or only replays those of others."""
        ...

    @property
    def at_once(self) -> int:
        """Jobs that it is asked for side by side."""
        ...

    async def identity(self) -> dict[str, Any]:
        """All that its numbers hang on, beside the jobs: it names its shards."""
        ...

    async def answer(self, job: Job) -> Answer:
        """The tokens that it samples."""
        ...

    async def score(self, job: Job, ids: Sequence[int]) -> ReplayScores:
        """The raw logprobs of an answer's tokens, from one prefill."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...


class EngineSetUp:
    """A running vLLM with the sampler's plugin."""

    answers = True

    def __init__(self, name: str, owner: str, engine: Engine, eos_ids: Sequence[int], at_once: int) -> None:
        self.name = name
        self.owner = owner
        self.at_once = at_once
        self._engine = engine
        self._eos = tuple(eos_ids)

    async def identity(self) -> dict[str, Any]:
        """Engine, model name and batch; raises where the engine lacks what a replay or a seeded answer needs."""
        info = await self._engine.check()
        if info.problems:
            hint = "start it with the flags that `retally node serve` prints, and the model that is to be calibrated"
            raise EngineUnavailable(f"set-up {self.name} can't be measured: {'; '.join(info.problems)}", hint=hint)
        return {"kind": "engine", "owner": self.owner, "name": self.name, "version": info.version, "model": info.model}

    async def answer(self, job: Job) -> Answer:
        """The engine's tokens for a job."""
        sampling = EngineSampling(
            params=job.params, seed=job.seed, eos_ids=self._eos, max_new_tokens=job.params.max_tokens
        )
        ids: list[int] = []
        logprobs: list[float] = []
        async for chunk in self._engine.generate(job.prompt_ids, sampling):
            ids.extend(chunk.ids)
            logprobs.extend(chunk.logprobs)
        return Answer(tuple(ids), tuple(logprobs))

    async def score(self, job: Job, ids: Sequence[int]) -> ReplayScores:
        """One prefill of the engine."""
        return await self._engine.score([*job.prompt_ids, *ids], len(job.prompt_ids), TOP)

    async def close(self) -> None:
        """Closes its connections."""
        await self._engine.close()


class NodeSetUp:
    """A node of a market that scores for money; it replays what others answered."""

    answers = False

    def __init__(self, name: str, owner: str, scorer: Scorer, at_once: int) -> None:
        self.name = name
        self.owner = owner
        self.at_once = at_once
        self._scorer = scorer

    async def identity(self) -> dict[str, Any]:
        """Which node, and what it says that it runs."""
        profile = to_hex(self._scorer.profile_id)
        return {"kind": "node", "owner": self.owner, "name": self.name, "by": self._scorer.name, "profile": profile}

    async def answer(self, job: Job) -> Answer:
        """Nodes are not asked for answers."""
        raise BadRequest(f"set-up {self.name} only replays", hint="name an engine with a url to answer")

    async def score(self, job: Job, ids: Sequence[int]) -> ReplayScores:
        """One prepaid scoring job."""
        return await self._scorer.score([*job.prompt_ids, *ids], len(job.prompt_ids))

    async def close(self) -> None:
        """The market's own connections are closed by who opened them."""


class ReferenceSetUp:
    """The folder's weights in the transformers library: another implementation than the engine's."""

    at_once = 1

    def __init__(
        self, name: str, owner: str, folder: Path, eos_ids: Sequence[int], *, label: str, answers: bool = False
    ) -> None:
        self.name = name
        self.owner = owner
        self.answers = answers
        self._label = label
        self._eos = tuple(eos_ids)
        self._model = _loaded(folder)

    async def identity(self) -> dict[str, Any]:
        """Which weights; the label stands for them."""
        return {"kind": "reference", "owner": self.owner, "name": self.name, "weights": self._label}

    async def answer(self, job: Job) -> Answer:
        """An answer by the protocol's sampler."""
        # In a thread: a blocked loop would not notice that an engine closed idle connections.
        return Answer(await asyncio.to_thread(self._model.generate, job.prompt_ids, job.params, job.seed, self._eos))

    async def score(self, job: Job, ids: Sequence[int]) -> ReplayScores:
        """One prefill."""
        return await asyncio.to_thread(self._model.score, job.prompt_ids, ids)

    async def close(self) -> None:
        """Nothing runs elsewhere."""


def _loaded(folder: Path) -> Any:
    try:
        from retally.inference.reference_model import ReferenceModel
    except ImportError as error:
        hint = "install the engine's packages beside retally: pip install 'retally[cpu]'"
        raise RetallyError(f"the reference implementation needs torch and transformers: {error}", hint=hint) from error
    try:
        return ReferenceModel(folder)
    except (OSError, ValueError) as error:
        hint = "name the folder that holds config.json and model.safetensors"
        raise RetallyError(f"{folder} holds no weights that can be loaded: {error}", hint=hint) from error


async def engine_set_up(
    name: str, owner: str, url: str, model: str, eos_ids: Sequence[int], at_once: int
) -> EngineSetUp:
    """The engine at an address, once it says that it serves the model."""
    engine = VllmEngine(url, model)
    try:
        await engine.served()
    except RetallyError as error:
        await engine.close()
        error.hint = f"set-up {name} must serve these weights under the name {model}: --served-model-name"
        raise
    return EngineSetUp(name, owner, engine, eos_ids, at_once)
