"""The model by another implementation than the engine's: an independent re-executor, and cheats' weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from retally.protocol.margins import TOP
from retally.protocol.params import JobParams
from retally.protocol.sampler import sample_token


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Raw logprobs of an answer's tokens."""

    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]


class ReferenceModel:
    """A folder's weights in the transformers library."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def score(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceScores:
        """One prefill."""
        ids = torch.tensor([[*prompt_ids, *output_ids]])
        with torch.inference_mode():
            logits = self._model(ids).logits[0, len(prompt_ids) - 1 : -1].float()
        best = torch.log_softmax(logits, dim=-1).topk(TOP, dim=-1)
        return ReferenceScores(best.indices.numpy().astype(np.int32), best.values.numpy())

    def generate(
        self, prompt_ids: Sequence[int], params: JobParams, seed: bytes, eos_ids: Sequence[int]
    ) -> tuple[int, ...]:
        """Sample an answer by the protocol's sampler."""
        model, past = self._model, None
        fresh = torch.tensor([list(prompt_ids)])
        output: list[int] = []
        while len(output) < params.max_tokens:
            with torch.inference_mode():
                result = model(fresh, past_key_values=past, use_cache=True)
            past = result.past_key_values
            logits = result.logits[0, -1].numpy()
            token = sample_token(logits, params, seed, len(output), prompt_ids, output, eos_ids)
            output.append(token)
            if token in eos_ids:
                break
            fresh = torch.tensor([[token]])
        return tuple(output)
