"""The fields of typed messages: how each is checked, encoded, written and read (R-4, R-6, R-8)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import (
    SAFE_INTEGER_BITS,
    address_bytes,
    check_integer,
    checksum_address,
    parse_address,
    parse_bytes32,
    parse_integer,
    to_hex,
)

_MODULUS = 1 << 256


@dataclass(frozen=True)
class TypedField:
    """One field; which operations it takes is decided once, by its type."""

    name: str
    wire: str
    type: str
    bits: int
    signed: bool

    @property
    def check(self) -> Callable[[Any], object]:
        """Raises BadRequest for a value that is none of this field's."""
        if self.type == "bool":
            return partial(_parse_bool, self.wire)
        if self.type == "address":
            return partial(_check_address, self.wire)
        if self.type == "bytes32":
            return partial(_check_bytes32, self.wire)
        return partial(_check_integer, self.wire, self.bits, self.signed)

    @property
    def encode(self) -> Callable[[Any], bytes]:
        """Its word in the struct."""
        if self.type == "address":
            return _address_word
        if self.type == "bytes32":
            return bytes
        return _signed_word if self.signed else _word

    @property
    def to_wire(self) -> Callable[[Any], Any]:
        """Its JSON value (R-4)."""
        if self.type in ("address", "bool"):
            return _same
        if self.type == "bytes32":
            return to_hex
        return _decimal if self.bits > SAFE_INTEGER_BITS else int

    @property
    def from_wire(self) -> Callable[[object], Any]:
        """Its value out of JSON; strict."""
        if self.type == "bool":
            return partial(_parse_bool, self.wire)
        if self.type == "address":
            return partial(parse_address, self.wire)
        if self.type == "bytes32":
            return partial(parse_bytes32, self.wire)
        return partial(_parse_integer, self.wire, self.bits, self.signed)


def _same(value: Any) -> Any:
    return value


def _decimal(value: int) -> str:
    return str(int(value))


def _word(value: int) -> bytes:
    return int(value).to_bytes(32, "big")


def _signed_word(value: int) -> bytes:
    return (value % _MODULUS).to_bytes(32, "big")


@lru_cache(maxsize=65536)
def _address_word(value: str) -> bytes:
    return bytes(12) + address_bytes(value)


def _parse_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", param=name)
    return value


def _check_address(name: str, value: object) -> None:
    if not isinstance(value, str) or checksum_address(value) != value:
        raise BadRequest(f"{name} must be an EIP-55 address", param=name)


def _check_bytes32(name: str, value: object) -> None:
    if not isinstance(value, bytes) or len(value) != 32:
        raise BadRequest(f"{name} must have 32 bytes", param=name)


def _check_integer(name: str, bits: int, signed: bool, value: object) -> None:
    check_integer(name, value, bits, signed=signed)


def _parse_integer(name: str, bits: int, signed: bool, value: object) -> int:
    return parse_integer(name, value, bits, signed=signed)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def fields_of(type_string: str) -> tuple[TypedField, ...]:
    """The fields of an EIP-712 type, in its order."""
    inner = type_string[type_string.index("(") + 1 : -1]
    fields = []
    for part in inner.split(","):
        kind, wire = part.split(" ")
        match = re.fullmatch(r"(u?)int(\d+)", kind)
        bits = int(match.group(2)) if match else 0
        fields.append(TypedField(_snake(wire), wire, kind, bits, match is not None and match.group(1) == ""))
    return tuple(fields)
