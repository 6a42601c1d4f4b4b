"""Embeddings as a job: what is asked for, and vectors as the ids that an output tree holds (R-73, R-74)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from struct import pack, unpack
from typing import Any, Self

from retally.errors import BadRequest, InvalidReceipt, UnsupportedParameter
from retally.protocol.encoding import check_integer, parse_ids, parse_object
from retally.protocol.params import JobParams

__all__ = [
    "MAX_COMPONENTS",
    "MAX_INPUTS",
    "VectorSizes",
    "bytes_of_floats",
    "bytes_of_ids",
    "check_params",
    "floats_of",
    "ids_of_bytes",
    "inputs_of",
    "inputs_of_body",
    "longest_at_most",
    "params_of_embeddings",
    "tokens_at_most",
    "vectors_of_ids",
]

MAX_INPUTS = 2048
#: Of all vectors of a job together: they leave in one frame.
MAX_COMPONENTS = 1 << 18
#: What a tokenizer may add around an input.
SPECIAL_TOKENS = 16


@dataclass(frozen=True, slots=True)
class VectorSizes:
    """How many components a model's vectors have, and to which numbers they may be cut."""

    whole: int
    shorter: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for size in (self.whole, *self.shorter):
            if not 1 <= check_integer("dimensions", size, 32) <= MAX_COMPONENTS:
                raise BadRequest(f"vectors have 1 to {MAX_COMPONENTS} components", param="dimensions")

    def has(self, dimensions: int) -> bool:
        """Whether such vectors are made."""
        return dimensions == self.whole or dimensions in self.shorter

    def to_wire(self) -> dict[str, Any]:
        """As a node's info shows them."""
        return {"dimensions": self.whole, "shorter": list(self.shorter)}

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """The sizes of a node's info."""
        wire = parse_object("embeddings", value)
        return cls(check_integer("dimensions", wire.get("dimensions"), 32), parse_ids("shorter", wire.get("shorter")))


def inputs_of_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt object of OpenAI's `input`: a text, texts, the ids of one, or lists of ids (R-11)."""
    given = body.get("input")
    if isinstance(given, list) and given and all(type(item) is int for item in given):
        given = [given]
    prompt = {"inputs": [given] if isinstance(given, str) else given}
    inputs_of(prompt)
    return prompt


def inputs_of(prompt: Mapping[str, Any]) -> Sequence[str | Sequence[int]]:
    """The inputs of a prompt object; raises BadRequest where they are none, or too many."""
    inputs = prompt.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        hint = "send a text, a list of texts, a list of token ids, or a list of such lists"
        raise BadRequest("input holds nothing to embed", param="input", hint=hint)
    if len(inputs) > MAX_INPUTS:
        hint = "send them in several requests"
        raise BadRequest(f"input holds {len(inputs)} texts, at most {MAX_INPUTS}", param="input", hint=hint)
    for item in inputs:
        if not item or not isinstance(item, str | list):
            raise BadRequest("an input is a text or a list of token ids, and not empty", param="input")
        if isinstance(item, list):
            parse_ids("input", item)
    return inputs


def params_of_embeddings(dimensions: int, inputs: int) -> JobParams:
    """The parameters of R-73: so many vectors of so many components."""
    if dimensions * inputs > MAX_COMPONENTS:
        hint = f"send at most {MAX_COMPONENTS // dimensions} inputs in a request"
        raise BadRequest(
            f"{inputs} vectors of {dimensions} components are more than {MAX_COMPONENTS}", param="input", hint=hint
        )
    return JobParams.of_embeddings(dimensions, dimensions * inputs)


def check_params(params: JobParams, prompt: Mapping[str, Any], sizes: VectorSizes) -> None:
    """Raises unless these are the parameters of that prompt, for vectors that are made."""
    if not sizes.has(params.dimensions):
        raise UnsupportedParameter("dimensions", f"must be one of {[sizes.whole, *sizes.shorter]}")
    if params != params_of_embeddings(params.dimensions, len(inputs_of(prompt))):
        raise BadRequest("maxTokens must be the number of all components", param="maxTokens")


def tokens_at_most(prompt: Mapping[str, Any]) -> int:
    """No byte-level tokenizer makes more tokens than this of all inputs."""
    return sum(_at_most(item) for item in prompt["inputs"])


def longest_at_most(prompt: Mapping[str, Any]) -> int:
    """Nor more than this of one of them."""
    return max(_at_most(item) for item in prompt["inputs"])


def _at_most(item: str | Sequence[int]) -> int:
    return len(item.encode()) + SPECIAL_TOKENS if isinstance(item, str) else len(item)


def ids_of_bytes(little_endian: bytes) -> list[int]:
    """The ids that stand for float32 components, given as bytes: their IEEE 754 bits (R-74)."""
    return list(unpack(f"<{len(little_endian) // 4}I", little_endian))


def bytes_of_ids(ids: Sequence[int]) -> bytes:
    """The components as little-endian float32, as `encoding_format: base64` shows them."""
    return pack(f"<{len(ids)}I", *ids)


def vectors_of_ids(ids: Sequence[int], dimensions: int) -> list[bytes]:
    """The vectors of an output, each as little-endian float32; raises InvalidReceipt for what is no number."""
    if not dimensions or len(ids) % dimensions:
        raise InvalidReceipt("R-74 whole vectors", dimensions, len(ids))
    raw = bytes_of_ids(ids)
    if not all(map(isfinite, floats_of(raw))):
        raise InvalidReceipt("R-74 finite components")
    size = 4 * dimensions
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def floats_of(little_endian: bytes) -> Sequence[float]:
    """The components as numbers."""
    return unpack(f"<{len(little_endian) // 4}f", little_endian)


def bytes_of_floats(numbers: Sequence[float]) -> bytes:
    """Numbers as float32; raises BadRequest for what is no number of that kind."""
    try:
        return pack(f"<{len(numbers)}f", *numbers)
    except (TypeError, OverflowError, struct.error) as error:
        raise BadRequest(f"no vector: {error}", param="embedding") from error
