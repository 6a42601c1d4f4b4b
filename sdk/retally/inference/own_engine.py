"""One's own vLLM as a re-executor: what it lacks it says in words that help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.engine import Engine
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.encoding import Bytes32
from retally.protocol.margins import TOP, ReplayScores


@dataclass(frozen=True, slots=True)
class EngineScorer:
    """One's own vLLM; which profile it runs under, its owner says."""

    engine: Engine
    name: str
    profile_id: Bytes32

    async def score(self, ids: Sequence[int], start: int) -> ReplayScores:
        """The raw logprobs of ids[start:]."""
        try:
            return await self.engine.score(ids, start, TOP)
        except BadRequest as error:
            # vLLM refuses what its flags are too narrow for.
            hint = f"start it with --max-logprobs 66 and a --max-model-len above {len(ids)}"
            raise EngineUnavailable(error.message, hint=hint) from error


async def own_engine(url: str, model: str, profile_id: Bytes32) -> tuple[EngineScorer, VllmEngine]:
    """The engine at an address, once it says that it serves the model."""
    engine = VllmEngine(url, model)
    try:
        await engine.served()
    except EngineUnavailable as error:
        await engine.close()
        error.hint = "start vLLM with the job's model; where it serves it by another name, pass --engine-model"
        raise
    return EngineScorer(engine, f"engine {url}", profile_id), engine
