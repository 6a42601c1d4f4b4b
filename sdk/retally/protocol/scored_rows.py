"""A transcript's raw logprobs on their way from a node to who bought them (R-32)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retally.errors import BadRequest
from retally.protocol.encoding import check_integer, parse_bytes, parse_object, to_hex
from retally.protocol.margins import TOP

_IDS, _LOGPROBS = np.dtype("<i4"), np.dtype("<f4")


def scores_to_wire(
    start: int, top_ids: NDArray[np.int32], top_logprobs: NDArray[np.float32], claimed: NDArray[np.float32]
) -> dict[str, Any]:
    """A scoring job's result: one row for each position from `start` on."""
    return {
        "start": start,
        "top": top_ids.shape[1],
        "topIds": to_hex(top_ids.astype(_IDS).tobytes()),
        "topLogprobs": to_hex(top_logprobs.astype(_LOGPROBS).tobytes()),
        "claimed": to_hex(claimed.astype(_LOGPROBS).tobytes()),
    }


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """A replay's raw logprobs for the judged tokens."""

    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    @classmethod
    def from_wire(cls, value: object, start: int, count: int) -> ScoredRows:
        """The rows of the answer's tokens out of a whole transcript's; raises BadRequest where they do not fit it."""
        wire = parse_object("promptLogprobs", value)
        top = check_integer("top", wire.get("top"), 32)
        skip = start - check_integer("start", wire.get("start"), 32)
        if not 1 <= top <= TOP or skip < 0:
            raise BadRequest("the scores do not fit the transcript", param="promptLogprobs")
        shape = (skip + count, top)
        ids = _array("topIds", wire.get("topIds"), _IDS, shape)
        logprobs = _array("topLogprobs", wire.get("topLogprobs"), _LOGPROBS, shape)
        if np.isnan(logprobs).any():
            raise BadRequest("a score is no number", param="promptLogprobs")
        return cls(ids[skip:].astype(np.int32), logprobs[skip:].astype(np.float32))


def _array(name: str, value: object, kind: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    content = parse_bytes(name, value, shape[0] * shape[1] * kind.itemsize)
    return np.frombuffer(content, dtype=kind).reshape(shape)
