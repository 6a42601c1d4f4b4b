"""The sampler as a plugin of vLLM's first model runner (`vllm_flags.SAMPLER_PLUGIN`).

A request opts in by one string argument (`vllm_xargs`), written by the engine client. The engine itself is asked for
temperature 0 and no penalties: the plugin names the token and leaves the engine nothing to choose.
"""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from retally.errors import BadRequest
from retally.inference.grammar import GrammarBook, GrammarLibraryMissing, check_library
from retally.inference.sampler_grammar import Reading
from retally.inference.sampler_rows import Row
from retally.inference.torch_sampler import BatchSampler
from retally.inference.vllm_flags import SAMPLER_ARGUMENT
from retally.protocol.params import JobParams


class RetallySampler(LogitsProcessor):  # type: ignore[misc]  # vLLM ships no type information
    """Names the next token of every request that carries the sampler's argument."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, Row] = {}
        self._grammars = GrammarBook.load(vllm_config.model_config.tokenizer)
        #: Made for the present rows and this many logits, when these are first there.
        self._batch: BatchSampler | None = None
        self._shape: torch.Size | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a malformed argument while the request is still at the door."""
        argument = (sampling_params.extra_args or {}).get(SAMPLER_ARGUMENT)
        if argument is None:
            return
        if sampling_params.temperature != 0:
            raise ValueError("a request with the retally sampler must have temperature 0")
        try:
            read_row(argument, [], [], None)
        except (KeyError, TypeError, AttributeError, ValueError, BadRequest, GrammarLibraryMissing) as error:
            raise ValueError(f"the retally sampler's argument is malformed: {error!r}") from error

    def is_argmax_invariant(self) -> bool:
        """Return False: naming the token is the whole point."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that come, go and move in the batch."""
        if batch_update is None:
            return
        self._batch = None
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, prompt_ids, output_ids in batch_update.added:
            argument = (params.extra_args or {}).get(SAMPLER_ARGUMENT)
            self._rows.pop(index, None)
            if argument is not None:
                self._rows[index] = read_row(argument, prompt_ids or [], output_ids, self._grammars)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = displaced

    def apply(self, logits: Tensor) -> Tensor:
        """Raise the named token of each row that is ours above all others, where it is not the largest already."""
        if not self._rows:
            return logits
        if self._batch is None or self._shape != logits.shape:
            rows = {index: row for index, row in self._rows.items() if index < len(logits)}
            self._batch, self._shape = BatchSampler(rows, logits.shape[1], logits.device), logits.shape
        self._batch.apply(logits)
        return logits


def read_row(argument: object, prompt_ids: list[int], output_ids: list[int], grammars: GrammarBook | None) -> Row:
    """Read the argument; the answer's earlier tokens are the last ids of the prompt.

    Without grammars the answer's is only looked at, not compiled.
    """
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
    eos_ids = tuple(int(token) for token in wire["eos"])
    grammar = wire["grammar"]
    if not isinstance(grammar, str):
        raise TypeError("grammar must be text")
    reading = None
    if grammar:
        check_library()
        if not eos_ids:
            raise ValueError("an answer of a given form needs an end-of-sequence id")
    if grammar and grammars is not None:
        reading = Reading(partial(grammars.start, grammar, eos_ids, tuple(prompt_ids[start:])))
    return Row(
        params=JobParams.from_json(wire["params"]),
        seed=seed,
        eos_ids=eos_ids,
        prompt_ids=prompt_ids[:start],
        prefix_ids=prompt_ids[start:],
        output_ids=output_ids,
        grammar=reading,
    )
