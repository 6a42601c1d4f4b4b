"""The port to an inference engine: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retally.protocol.params import JobParams

FINISH_STOP = "stop"
FINISH_LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSampling:
    """How to sample one segment of an answer."""

    params: JobParams
    #: Seed of the job's choice (R-26).
    seed: bytes
    #: Tokens of the answer that are already there; they are the last ids of the prompt given to the engine.
    position: int = 0
    eos_ids: tuple[int, ...] = ()
    max_new_tokens: int
    #: Alternatives to report for each token; the chosen token's own logprob always comes.
    logprobs: int = 0
    #: What the answer is held to (`protocol.structure.grammar_of`); empty where its form is free.
    grammar: str = ""


@dataclass(frozen=True, slots=True)
class EngineChunk:
    """Some new tokens with their raw logprobs."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    #: For each token the most likely ids and their raw logprobs, if they were asked for.
    top_logprobs: tuple[dict[int, float], ...] | None = None
    #: "stop" (an end-of-sequence id) or "length" in the last chunk, else None.
    finish_reason: str | None = None
    #: Prompt tokens found in the engine's cache; known in the last chunk only.
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw logprobs of given ids, from one prefill; row 0 is the id at position `start`."""

    start: int
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    claimed_logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine says and shows of itself at start."""

    model: str
    max_context: int
    version: str
    #: The sampler plugin is loaded and names the same tokens as its numpy twin.
    has_sampler: bool
    #: One prefill returns 64 raw logprobs for each token.
    has_prompt_logprobs: bool
    problems: tuple[str, ...] = field(default=())
    #: Components of its vectors; 0 where it answers in tokens.
    dimensions: int = 0
    #: What it can do without, at a price.
    hints: tuple[str, ...] = field(default=())


@runtime_checkable
class Embedder(Protocol):
    """What makes vectors of token ids."""

    async def embed(self, inputs: Sequence[Sequence[int]], dimensions: int) -> NDArray[np.float32]:
        """Return a row of finite components for each input; raises EngineUnavailable where the engine makes others."""
        ...


class Engine(Protocol):
    """One engine; implementations are safe for many requests at once."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        """Stream an answer's tokens; closing the iterator cancels the request."""
        ...

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        """Return the raw logprobs of ids[start:] under their predecessors; start is at least 1."""
        ...

    async def check(self) -> EngineInfo:
        """Find out what the engine can do; raise EngineUnavailable when it does not answer."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
