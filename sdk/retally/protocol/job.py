"""What is asked for, who shall do it, and the hashes of both (R-8, R-11, R-26)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import rfc8785

from retally.errors import BadRequest
from retally.protocol.eip712 import TypedMessage
from retally.protocol.encoding import Address, Bytes32, keccak, u16
from retally.protocol.params import JobParams
from retally.protocol.pricing import Prices

__all__ = [
    "Assignment",
    "JobParams",
    "JobRequest",
    "canonical_json",
    "client_seed_from_int",
    "job_seed",
    "params_hash",
    "prompt_hash",
]

MAX_SAFE_INTEGER = (1 << 53) - 1
_FIRST_SURROGATE = "\ud800"
_SEED_PREFIX = b"retally/seed"


@dataclass(frozen=True, slots=True)
class JobRequest(TypedMessage):
    """What the payer, or its signer, asks for; it names no node."""

    TYPE: ClassVar[str] = (
        "JobRequest(address payer,address signer,bytes32 modelId,bytes32 profileId,uint16 n,uint64 maxPriceIn,"
        "uint64 maxPriceCached,uint64 maxPriceOut,bytes32 promptHash,bytes32 paramsHash,uint32 maxOutput,"
        "uint96 maxFee,bytes32 clientSeed,bool auditConsent,bytes32 nonce,uint40 deadline)"
    )

    payer: Address
    signer: Address
    model_id: Bytes32
    profile_id: Bytes32
    n: int
    max_price_in: int
    max_price_cached: int
    max_price_out: int
    prompt_hash: Bytes32
    params_hash: Bytes32
    max_output: int
    max_fee: int
    client_seed: Bytes32
    audit_consent: bool
    nonce: Bytes32
    deadline: int

    @property
    def max_prices(self) -> Prices:
        """The most that the payer accepts."""
        return Prices(self.max_price_in, self.max_price_cached, self.max_price_out)


@dataclass(frozen=True, slots=True)
class Assignment(TypedMessage):
    """A router's order to one node: this choice, from this token on, for at most this fee."""

    TYPE: ClassVar[str] = (
        "Assignment(bytes32 jobId,address router,uint32 replica,uint64 boot,uint64 counter,address node,"
        "bytes32 offerHash,uint16 choice,uint16 segment,uint32 outputFrom,bytes32 prefixRoot,uint96 remainingFee)"
    )

    job_id: Bytes32
    router: Address
    replica: int
    boot: int
    counter: int
    node: Address
    offer_hash: Bytes32
    choice: int
    segment: int
    output_from: int
    prefix_root: Bytes32
    remaining_fee: int


def canonical_json(value: object) -> bytes:
    """RFC 8785, without floats: no float is ever hashed (R-3)."""
    try:
        _refuse_unhashable(value)
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if text.isascii() or max(text) < _FIRST_SURROGATE:
            return text.encode()
        # Python sorts keys by code point, the RFC by UTF-16 unit: they differ above U+D7FF only.
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # its alias of JSON types is invariant
    except (UnicodeEncodeError, rfc8785.CanonicalizationError) as error:
        raise BadRequest(f"not canonical JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("JSON that nests too deep can't be hashed") from error


def _refuse_unhashable(value: object) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:  # type: ignore[operator]  # int by its type
            raise BadRequest("an integer beyond 53 bits can't be canonical JSON")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unhashable(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadRequest("a key of canonical JSON must be a string")
            _refuse_unhashable(item)
    else:
        raise BadRequest(f"{kind.__name__} can't be hashed as canonical JSON")


def prompt_hash(nonce: bytes, prompt: Mapping[str, Any]) -> Bytes32:
    """The salted hash of a prompt object (R-11)."""
    return keccak(nonce + canonical_json(dict(prompt)))


def params_hash(params: JobParams | Mapping[str, Any]) -> Bytes32:
    """The hash of the parameters (R-11)."""
    return keccak(canonical_json(params.to_json() if isinstance(params, JobParams) else dict(params)))


def job_seed(client_seed: bytes, choice: int) -> Bytes32:
    """The seed of a choice, which the node never chooses (R-26)."""
    return keccak(_SEED_PREFIX + client_seed + u16(choice))


def client_seed_from_int(seed: int) -> Bytes32:
    """A client's integer seed as 32 bytes in two's complement."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadRequest("seed must be an integer", param="seed")
    try:
        return Bytes32(seed.to_bytes(32, "big", signed=True))
    except OverflowError as error:
        raise BadRequest("seed does not fit 256 bits", param="seed") from error
