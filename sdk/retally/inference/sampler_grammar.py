"""Grammar masks of R-28 over the rows of a batch that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retally.inference.grammar import Walk
from retally.protocol.grammar import Words


class Reading:
    """An answer's walk through its grammar as the engine's list of ids grows."""

    def __init__(self, start: Callable[[], Walk]) -> None:
        self._start = start
        self._walk = start()
        self._read = 0

    def mask(self, output_ids: Sequence[int]) -> Words | None:
        """The mask of the next token, after what is new up to the first placeholder."""
        if len(output_ids) < self._read:
            # The engine took tokens back.
            self._walk, self._read = self._start(), 0
        for token in output_ids[self._read :]:
            if token < 0:
                break
            self._walk.push(token)
            self._read += 1
        return self._walk.mask()


class GrammarMasks:
    """Forbids tokens in place; rows are (where in the scores, the walk, the engine's output ids)."""

    def __init__(self, rows: Sequence[tuple[int, Reading, Sequence[int]]], size: int, device: torch.device) -> None:
        self._rows, self._size, self._device = rows, size, device

    def apply(self, scores: Tensor) -> None:
        """Forbid what each row's mask does."""
        found = [(n, mask) for n, reading, ids in self._rows if (mask := reading.mask(ids)) is not None]
        if not found:
            return
        forbidden = torch.from_numpy(np.stack([_forbidden(mask, self._size) for _, mask in found]))
        where = torch.tensor([n for n, _ in found], dtype=torch.int64, device=self._device)
        scores[where] = scores[where].masked_fill(forbidden.to(self._device), -torch.inf)


def _forbidden(mask: Words, size: int) -> NDArray[np.bool_]:
    """Which of `size` logits a mask forbids; an engine may have more of them than the tokenizer tokens."""
    bits = np.ones(size, dtype=np.bool_)
    known = np.unpackbits(mask.view(np.uint8), bitorder="little")[:size]
    bits[: len(known)] = known == 0
    return bits
