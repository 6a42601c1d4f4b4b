"""The sampler as a plugin of vLLM's first model runner (`vllm_flags.SAMPLER_PLUGIN`).

A request opts in by one string argument (`vllm_xargs`), written by the engine client. The engine itself is asked for
temperature 0 and no penalties: the plugin names the token and leaves the engine nothing to choose.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from retally.errors import BadRequest
from retally.inference.torch_sampler import Row, choose
from retally.inference.vllm_flags import SAMPLER_ARGUMENT
from retally.protocol.params import JobParams


class RetallySampler(LogitsProcessor):  # type: ignore[misc]  # vLLM ships no type information
    """Names the next token of every request that carries the sampler's argument."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, Row] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a malformed argument while the request is still at the door."""
        argument = (sampling_params.extra_args or {}).get(SAMPLER_ARGUMENT)
        if argument is None:
            return
        if sampling_params.temperature != 0:
            raise ValueError("a request with the retally sampler must have temperature 0")
        try:
            read_row(argument, [], [])
        except (KeyError, TypeError, AttributeError, ValueError, BadRequest) as error:
            raise ValueError(f"the retally sampler's argument is malformed: {error!r}") from error

    def is_argmax_invariant(self) -> bool:
        """Return False: naming the token is the whole point."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that come, go and move in the batch."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, prompt_ids, output_ids in batch_update.added:
            argument = (params.extra_args or {}).get(SAMPLER_ARGUMENT)
            self._rows.pop(index, None)
            if argument is not None:
                self._rows[index] = read_row(argument, prompt_ids or [], output_ids)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = displaced

    def apply(self, logits: Tensor) -> Tensor:
        """Leave exactly one possible token in each row that is ours."""
        indices = sorted(index for index in self._rows if index < logits.shape[0])
        if not indices:
            return logits
        where = torch.tensor(indices, device=logits.device)
        chosen = choose(logits[where], [self._rows[index] for index in indices])
        logits[where] = -torch.inf
        logits[where, chosen] = 0.0
        return logits


def read_row(argument: object, prompt_ids: list[int], output_ids: list[int]) -> Row:
    """Read the argument; the answer's earlier tokens are the last ids of the prompt."""
    if not isinstance(argument, str):
        raise TypeError("it must be a string")
    wire = json.loads(argument)
    position = wire["position"]
    if not isinstance(position, int) or position < 0:
        raise TypeError("position must be a whole number")
    seed = bytes.fromhex(wire["seed"])
    if len(seed) != 32:
        raise ValueError("the seed must have 32 bytes")
    start = max(0, len(prompt_ids) - position)
    return Row(
        params=JobParams.from_json(wire["params"]),
        seed=seed,
        eos_ids=tuple(int(token) for token in wire["eos"]),
        prompt_ids=prompt_ids[:start],
        prefix_ids=prompt_ids[start:],
        output_ids=output_ids,
    )
