"""Bytes, addresses and strict JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NewType

from retally.errors import BadRequest
from retally.protocol.sponge import keccak256 as _keccak

Address = NewType("Address", str)
Bytes32 = NewType("Bytes32", bytes)

ZERO_ADDRESS = Address("0x" + "00" * 20)
ZERO_BYTES32 = Bytes32(bytes(32))
SAFE_INTEGER_BITS = 53

_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*\Z")
_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")


def keccak(data: bytes) -> Bytes32:
    """Keccak-256."""
    return Bytes32(_keccak(data))


@lru_cache(maxsize=65536)
def checksum_address(address: str) -> Address:
    """The EIP-55 spelling of a hex address; refuses a wrong checksum in mixed case."""
    if len(address) != 42 or not _HEX.match(address):
        raise BadRequest(f"{address[:60]!r} is no address")
    lower = address[2:].lower()
    digest = _keccak(lower.encode()).hex()
    spelled = "0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(lower, digest, strict=False))
    if address[2:] not in (lower, spelled[2:]) and address[2:] != lower.upper():
        raise BadRequest(f"{address} has a wrong checksum")
    return Address(spelled)


@lru_cache(maxsize=65536)
def address_bytes(address: str) -> bytes:
    """The 20 bytes of an address."""
    raw = bytes.fromhex(address[2:])
    if len(raw) != 20 or not address.startswith("0x"):
        raise BadRequest(f"{address[:60]!r} is no address")
    return raw


def address_from_bytes(raw: bytes) -> Address:
    """The address of 20 bytes."""
    return checksum_address("0x" + raw.hex())


def u16(value: int) -> bytes:
    """Two big-endian bytes."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Four big-endian bytes."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight big-endian bytes."""
    return value.to_bytes(8, "big")


def u96(value: int) -> bytes:
    """Twelve big-endian bytes."""
    return value.to_bytes(12, "big")


def u256(value: int) -> bytes:
    """Thirty-two big-endian bytes."""
    return value.to_bytes(32, "big")


def to_hex(data: bytes) -> str:
    """The 0x hex of bytes."""
    return "0x" + data.hex()


def check_integer(name: str, value: object, bits: int, *, signed: bool = False) -> int:
    """The value, if it is an integer of that width."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{name} must be an integer", param=name)
    if not signed and value >= 0 and value.bit_length() <= bits:
        return int(value)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    if not low <= value < high:
        raise BadRequest(f"{name} does not fit {'int' if signed else 'uint'}{bits}", param=name)
    return int(value)


def parse_integer(name: str, value: object, bits: int, *, signed: bool = False) -> int:
    """R-4: wider than 53 bits is a decimal string, narrower a number."""
    if bits > SAFE_INTEGER_BITS:
        if not isinstance(value, str) or len(value) > 78 or not _DECIMAL.match(value):
            raise BadRequest(f"{name} must be a decimal string", param=name)
        return check_integer(name, int(value), bits, signed=signed)
    return check_integer(name, value, bits, signed=signed)


def parse_bytes(name: str, value: object, size: int | None = None) -> bytes:
    """0x hex of exactly `size` bytes, if a size is given."""
    if size is not None and type(value) is str and len(value) == 2 * size + 2 and value.startswith("0x"):
        try:
            raw = bytes.fromhex(value[2:])
        except ValueError:
            raw = b""
        # fromhex skips blanks; with one of them the bytes are fewer.
        if len(raw) == size:
            return raw
    if not isinstance(value, str) or not _HEX.match(value):
        raise BadRequest(f"{name} must be 0x hex", param=name)
    raw = bytes.fromhex(value[2:])
    if size is not None and len(raw) != size:
        raise BadRequest(f"{name} must have {size} bytes", param=name)
    return raw


def parse_bytes32(name: str, value: object) -> Bytes32:
    """0x hex of 32 bytes."""
    return Bytes32(parse_bytes(name, value, 32))


def parse_signature(name: str, value: object) -> bytes:
    """0x hex of the 64 bytes of an EIP-2098 signature."""
    return parse_bytes(name, value, 64)


def parse_address(name: str, value: object) -> Address:
    """A hex address, spelled by EIP-55 or in one case."""
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be an address", param=name)
    try:
        return checksum_address(value)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}", param=name) from error


def parse_ids(name: str, value: object) -> tuple[int, ...]:
    """A list of LLM token ids."""
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list of token ids", param=name)
    for item in value:
        if type(item) is not int or not 0 <= item < 1 << 32:
            raise BadRequest(f"{name} must hold token ids only", param=name)
    return tuple(value)


def parse_object(name: str, value: object) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", param=name)
    return value


def check_fields(
    name: str, value: Mapping[str, Any], required: set[str] | frozenset[str], optional: frozenset[str] = frozenset()
) -> None:
    """No field missing, none unknown."""
    for missing in sorted(required - value.keys()):
        raise BadRequest(f"{name}: {missing} is missing", param=missing)
    for unknown in sorted(value.keys() - required - optional):
        raise BadRequest(f"{name}: {unknown} is unknown", param=unknown)
