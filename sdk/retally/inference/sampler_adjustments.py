"""Masks, bias, penalties and min_tokens of R-28 over all rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retally.inference.sampler_grammar import GrammarMasks
from retally.inference.sampler_rows import Row
from retally.protocol.params import JobParams
from retally.protocol.sampler import fraction


class Adjustments:
    """What changes the log-probabilities of some rows; what stays the same from step to step is laid out once.

    Scores are fp32 [rows, vocabulary]; all work on them is one gather and one scatter of the touched tokens.
    """

    def __init__(self, rows: Sequence[Row], size: int, device: torch.device) -> None:
        self._size, self._device = size, device
        self._masks = masks_of(list(enumerate(rows)), size, device)
        bias = [(n, *pair) for n, row in enumerate(rows) for pair in row.params.logit_bias if pair[0] < size]
        self._bias_at = (_ids([n for n, _, _ in bias], device), _ids([token for _, token, _ in bias], device))
        self._bias = _floats([float(fraction(value)) for _, _, value in bias], device)
        penalised = [(n, row) for n, row in enumerate(rows) if row.is_penalised]
        self._penalised = [row for _, row in penalised]
        self._penalised_at = _ids([n for n, _ in penalised], device)
        self._penalties = _floats([_penalties(row.params) for row in self._penalised], device)
        self._held = HeldOpen(list(enumerate(rows)), size, device)

    def apply(self, scores: Tensor) -> None:
        """Apply them in place, in the order of R-28."""
        self._masks.apply(scores)
        if len(self._bias):
            scores[self._bias_at] = scores[self._bias_at] + self._bias
        if self._penalised:
            self._penalise(scores)
        self._held.apply(scores)

    def _penalise(self, scores: Tensor) -> None:
        tallies = [row.tally() for row in self._penalised]
        ids = np.concatenate([tally.ids for tally in tallies])
        count = np.concatenate([tally.counts for tally in tallies])
        which = np.repeat(np.arange(len(tallies)), [len(tally.ids) for tally in tallies])
        if len(ids) and ids.max() >= self._size:
            known = ids < self._size
            ids, count, which = ids[known], count[known], which[known]
        row, token, counts = (torch.from_numpy(part).to(self._device) for part in (which, ids, count))
        repetition, frequency, presence = self._penalties[row].unbind(1)
        at = (self._penalised_at[row], token)
        values = scores[at]
        values = torch.where(values > 0, values / repetition, values * repetition)
        values = values - frequency * counts
        scores[at] = values - presence * (counts > 0)


class HeldOpen:
    """The end-of-sequence ids that min_tokens still forbids."""

    def __init__(self, rows: Sequence[tuple[int, Row]], size: int, device: torch.device) -> None:
        self._device = device
        self._rows = [(n, row, [token for token in row.eos_ids if token < size]) for n, row in rows]

    def apply(self, scores: Tensor) -> None:
        """Forbid them in place; rows that have reached their minimum are not looked at again."""
        self._rows = [held for held in self._rows if held[1].is_held_open]
        forbidden = [(n, token) for n, _, ends in self._rows for token in ends]
        if forbidden:
            rows, ids = zip(*forbidden, strict=True)
            scores[_ids(rows, self._device), _ids(ids, self._device)] = -torch.inf


def masks_of(rows: Sequence[tuple[int, Row]], size: int, device: torch.device) -> GrammarMasks:
    """The masks of those rows that have a grammar."""
    held = [(n, row.grammar, row.output_ids) for n, row in rows if row.grammar is not None]
    return GrammarMasks(held, size, device)


def _penalties(params: JobParams) -> tuple[float, float, float]:
    return (
        float(fraction(params.repetition_penalty)),
        float(fraction(params.frequency_penalty)),
        float(fraction(params.presence_penalty)),
    )


def _ids(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _floats(values: Sequence[float] | Sequence[tuple[float, ...]], device: torch.device) -> Tensor:
    # An engine may have changed torch's default dtype to that of its model.
    return torch.tensor(values, dtype=torch.float32, device=device)
