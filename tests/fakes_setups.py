"""Set-ups of a tiny model in numpy: real sampling, real scores, and as much kernel noise as one asks for."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.margins import TOP
from retally.protocol.sampler import sample_token
from retally_verifier.calibrate.canaries import Answer, Job

VOCABULARY = 96
EOS = (0,)


class Rows:
    """Raw logprobs of an answer's tokens."""

    def __init__(self, logprobs: np.ndarray[Any, Any]) -> None:
        order = np.argsort(-logprobs, axis=1, kind="stable")[:, :TOP]
        self.top_ids = order.astype(np.int32)
        self.top_logprobs = np.take_along_axis(logprobs, order, axis=1).astype(np.float32)


class NumpySetUp:
    """A bigram model of random weights; `weights` names them, `noise` is the spread of its kernels, in nats."""

    def __init__(
        self, name: str, owner: str, *, noise: float = 0.0, weights: str = "genuine", answers: bool = True
    ) -> None:
        self.name = name
        self.owner = owner
        self.answers = answers
        self.at_once = 4
        self.asked = 0
        self.scored = 0
        self._noise = noise
        self._weights = np.random.default_rng(int.from_bytes(keccak(weights.encode())[:4], "big")).normal(
            0, 2.5, (VOCABULARY, VOCABULARY)
        )

    async def identity(self) -> dict[str, Any]:
        """Its name and noise."""
        return {"name": self.name, "noise": self._noise}

    async def answer(self, job: Job) -> Answer:
        """An answer by the protocol's sampler."""
        self.asked += 1
        rng = self._rng(job, b"answer")
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < job.params.max_tokens:
            row = self.logprobs([*job.prompt_ids, *ids][-1:], rng)[0]
            ids.append(sample_token(row, job.params, job.seed, len(ids), job.prompt_ids, ids, EOS))
            logprobs.append(float(row[ids[-1]]))
            if ids[-1] in EOS:
                break
        return Answer(tuple(ids), tuple(logprobs))

    async def score(self, job: Job, ids: Sequence[int]) -> Rows:
        """One prefill."""
        self.scored += 1
        return Rows(self.logprobs([*job.prompt_ids[-1:], *ids[:-1]], self._rng(job, b"score")))

    async def close(self) -> None:
        """Holds nothing."""

    def _rng(self, job: Job, what: bytes) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(keccak(self.name.encode() + what + job.seed)[:8], "big"))

    def logprobs(self, last: Sequence[int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Raw logprobs after each of these tokens."""
        logits = self._weights[[each % VOCABULARY for each in last]]
        logits = (logits + rng.normal(0, self._noise, logits.shape)).astype(np.float32)
        found: np.ndarray[Any, Any] = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
        return found


class NumpyNode:
    """A node of a market that scores by the same model."""

    def __init__(self, owner: Address, model_id: bytes, profile_id: bytes) -> None:
        self.name = f"node of {owner}"
        self.profile_id = Bytes32(profile_id)
        self.entry = SimpleNamespace(owner=owner, model_id=model_id, profile_id=profile_id)
        self._model = NumpySetUp("node", str(owner))

    async def score(self, ids: Sequence[int], start: int) -> Rows:
        """The raw logprobs of ids[start:]."""
        return Rows(self._model.logprobs(ids[start - 1 : -1], np.random.default_rng(0)))
