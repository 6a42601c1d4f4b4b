"""What vLLM writes: the parts of its completion objects that retally reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from retally.errors import EngineUnavailable
from retally.inference.engine import FINISH_LENGTH, FINISH_STOP, EngineChunk, Scores

TOKEN_PREFIX = "token_id:"
#: vLLM writes this for minus infinity.
LOWEST = -9999.0


class PromptTokensDetails(Struct):
    """Details of the prompt's tokens."""

    cached_tokens: int | None = None


class Usage(Struct):
    """Token counts of a request."""

    prompt_tokens_details: PromptTokensDetails | None = None


class Logprobs(Struct):
    """Logprobs of the new tokens."""

    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class PromptLogprob(Struct):
    """Logprob of one token at one prompt position."""

    logprob: float


class Choice(Struct):
    """The only choice of a request or of one of its frames."""

    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Completion(Struct):
    """A plain answer."""

    choices: list[Choice]


class Frame(Struct):
    """One event of a streamed answer."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


def chunk_of(choice: Choice, wanted: int) -> EngineChunk:
    """Return the tokens of a frame."""
    ids = tuple(choice.token_ids or ())
    logprobs = choice.logprobs or Logprobs()
    chosen = tuple(LOWEST if value is None else value for value in logprobs.token_logprobs)
    if len(chosen) != len(ids):
        raise EngineUnavailable(f"the engine sent {len(ids)} token ids and {len(chosen)} logprobs")
    if choice.finish_reason not in (None, FINISH_STOP, FINISH_LENGTH):
        raise EngineUnavailable(f"the engine ended the answer with {choice.finish_reason!r}")
    top = tuple(_alternatives(row, wanted) for row in logprobs.top_logprobs) if wanted else None
    return EngineChunk(ids, chosen, top, choice.finish_reason)


def scores_of(rows: Sequence[dict[str, PromptLogprob] | None], ids: Sequence[int], start: int, top: int) -> Scores:
    """Return prompt logprobs as arrays, likeliest first, equals by rising id."""
    top_ids = np.zeros((len(ids), top), dtype=np.int32)
    top_logprobs = np.full((len(ids), top), -np.inf, dtype=np.float32)
    claimed = np.zeros(len(ids), dtype=np.float32)
    for n, (row, token) in enumerate(zip(rows, ids, strict=True)):
        if row is None or str(token) not in row:
            raise EngineUnavailable("the engine left out a prompt token's logprob")
        claimed[n] = row[str(token)].logprob
        known = np.array([int(key) for key in row], dtype=np.int32)
        values = np.array([entry.logprob for entry in row.values()], dtype=np.float32)
        order = np.lexsort((known, -values))[:top]
        top_ids[n, : len(order)] = known[order]
        top_logprobs[n, : len(order)] = values[order]
    return Scores(start, top_ids, top_logprobs, claimed)


def scores_of_arrays(content: bytes, ids: Sequence[int], start: int, top: int) -> Scores:
    """Return what the score route sent, in the order of `scores_of` and with its numbers."""
    width = top + 1
    if len(content) != 8 * width * len(ids):
        raise EngineUnavailable(f"the engine sent {len(content)} bytes of logprobs for {len(ids)} tokens")
    known = np.frombuffer(content, "<i4", width * len(ids)).reshape(len(ids), width)
    values = np.frombuffer(content, "<f4", offset=4 * known.size).reshape(known.shape)
    if known[:, 0].tolist() != list(ids):
        raise EngineUnavailable("the engine scored other tokens than those asked for")
    if np.isnan(values).any():
        raise EngineUnavailable("the engine sent a logprob that is no number")
    values = np.where(np.isneginf(values), np.float32(LOWEST), values)
    claimed = values[:, 0].copy()
    # The claimed token comes first, and again where it is among the likeliest.
    values[(known[:, 1:] == known[:, :1]).any(axis=1), 0] = -np.inf
    order = np.lexsort((known, -values), axis=-1)[:, :top]
    top_ids = np.take_along_axis(known, order, axis=1).astype(np.int32)
    return Scores(start, top_ids, np.take_along_axis(values, order, axis=1).astype(np.float32), claimed)


def _alternatives(row: dict[str, float] | None, wanted: int) -> dict[int, float]:
    pairs = [(int(key.removeprefix(TOKEN_PREFIX)), value) for key, value in (row or {}).items()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:wanted])
