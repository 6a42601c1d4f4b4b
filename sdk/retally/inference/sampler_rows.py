"""One request in the engine's batch, and what its tokens count for penalties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retally.inference.sampler_grammar import Reading
from retally.protocol.params import ONE, JobParams


@dataclass(slots=True)
class Row:
    """One request in the batch: its rule and the tokens around it."""

    params: JobParams
    seed: bytes
    eos_ids: tuple[int, ...]
    prompt_ids: Sequence[int]
    prefix_ids: Sequence[int]
    #: The engine's own growing list.
    output_ids: Sequence[int] = field(default_factory=list)
    #: The answer's walk through its grammar, where it has one.
    grammar: Reading | None = None
    _tally: Tally | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def position(self) -> int:
        """How many tokens of the answer there are, earlier segments included."""
        return len(self.prefix_ids) + len(self.output_ids)

    @property
    def is_penalised(self) -> bool:
        """Whether tokens seen before change this row's scores."""
        p = self.params
        return bool(p.repetition_penalty != ONE or p.frequency_penalty or p.presence_penalty)

    @property
    def is_scored(self) -> bool:
        """Whether the row needs log-probabilities; the engine's own argmax of raw logits serves any other.

        Where rounding makes one log-probability of two logits, R-28 names the smaller id and the argmax the larger
        logit: replays see a tie, whose margin is zero either way.
        """
        return bool(self.params.temperature or self.params.logit_bias or self.is_penalised)

    @property
    def is_held_open(self) -> bool:
        """Whether end-of-sequence ids are still forbidden."""
        return self.position < self.params.min_tokens

    def tally(self) -> Tally:
        """The distinct tokens that penalties look at, brought up to date."""
        if self._tally is None or not self._tally.follow(self.output_ids):
            # The repetition penalty alone looks at the prompt, too.
            prompt = self.prompt_ids if self.params.repetition_penalty != ONE else ()
            self._tally = Tally(prompt, self.prefix_ids)
            self._tally.follow(self.output_ids)
        return self._tally


class Tally:
    """Distinct token ids with how often the answer holds them; grows by one token a step."""

    def __init__(self, prompt_ids: Iterable[int], prefix_ids: Iterable[int]) -> None:
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float32)
        self._read = 0
        for token in prompt_ids:
            self._slot(token)
        for token in prefix_ids:
            self._count(token)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct ids, in order of their first occurrence."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often the answer holds each; zero for those of the prompt alone."""
        return self._counts[: len(self._slots)]

    def follow(self, output_ids: Sequence[int]) -> bool:
        """Count what is new up to the first placeholder; False if the engine took tokens back."""
        if len(output_ids) < self._read:
            return False
        for token in output_ids[self._read :]:
            if token < 0:
                break
            self._count(token)
            self._read += 1
        return True

    def _count(self, token: int) -> None:
        # The slot first: finding it may exchange the array.
        slot = self._slot(token)
        self._counts[slot] += 1

    def _slot(self, token: int) -> int:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[slot] = token
        return slot
