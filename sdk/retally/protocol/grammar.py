"""Which tokens a grammar allows at each position of an answer: the port, and what follows from a mask (R-28, R-34)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: One bit a token id, 32 ids a word, lowest bit first; ids beyond the last word are forbidden.
Words = NDArray[np.int32]


class Grammars(Protocol):
    """A model's tokenizer under grammars."""

    def masks(
        self, grammar: str, eos_ids: Collection[int], prefix_ids: Sequence[int], output_ids: Sequence[int]
    ) -> list[Words | None]:
        """The mask of each output token; None where every token is allowed. Raises BadRequest for no grammar."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerMasks:
    """The masks of an answer's own tokens; no masks at all mean that its form is free."""

    rows: Sequence[Words | None] = ()

    def allowed(self, index: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `ids` the mask of the token at `index` allows."""
        row = self.rows[index] if self.rows else None
        return np.ones(len(ids), dtype=np.bool_) if row is None else are_allowed(row, ids)

    def first_forbidden(self, output_ids: Sequence[int]) -> int | None:
        """The index of the first token that its own mask forbids."""
        for index, token in enumerate(output_ids):
            if not self.allowed(index, np.array([token], dtype=np.int64))[0]:
                return index
        return None


def are_allowed(row: Words, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `ids` a mask allows."""
    known = ids < 32 * len(row)
    words = row[np.where(known, ids >> 5, 0)]
    return np.asarray(known & ((words >> (ids & 31).astype(np.int32)) & 1).astype(np.bool_), dtype=np.bool_)
