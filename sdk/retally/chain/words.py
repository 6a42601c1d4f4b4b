"""Calldata and results made of plain words: numbers, addresses, fixed bytes, and text.

Whoever only reads the chain needs no more of the ABI, and eth_abi, which knows all of it, is a dozen megabytes in a
process. What is here encodes, decodes and refuses as it does, but for text: anybody may put bytes on chain that are no
UTF-8, and what else a block says must be read all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from retally.protocol.encoding import address_bytes

WORD = 32

_UNSIGNED = re.compile(r"uint([1-9][0-9]{0,2})")
_FIXED = re.compile(r"bytes([1-9]|[12][0-9]|3[0-2])")
_DYNAMIC = ("string", "bytes")


class Malformed(ValueError):
    """Data that is not what its types say, or a value that is not of its type."""


def is_plain(types: Sequence[str]) -> bool:
    """Whether all are words or text."""
    return all(kind in ("address", "bool", *_DYNAMIC) or _size_of(kind) for kind in types)


def encode_words(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """The calldata of plain arguments."""
    heads, tails, at = [], [], WORD * len(types)
    for kind, value in zip(types, values, strict=True):
        if kind in _DYNAMIC:
            raw = value.encode() if kind == "string" else bytes(value)
            heads.append(at.to_bytes(WORD, "big"))
            tails.append(len(raw).to_bytes(WORD, "big") + raw + bytes(-len(raw) % WORD))
            at += len(tails[-1])
        else:
            heads.append(_word_of(kind, value))
    return b"".join(heads + tails)


def decode_words(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """What plain results hold; raises Malformed where a contract would not have written them so."""
    return tuple(_value_at(kind, data, WORD * place) for place, kind in enumerate(types))


def _size_of(kind: str) -> int:
    """Bytes of a number or of fixed bytes; 0 if it is neither."""
    number = _UNSIGNED.fullmatch(kind)
    if number is not None:
        bits = int(number[1])
        return bits // 8 if bits % 8 == 0 and bits <= 256 else 0
    fixed = _FIXED.fullmatch(kind)
    return int(fixed[1]) if fixed is not None else 0


def _word_of(kind: str, value: Any) -> bytes:
    if kind == "address":
        return bytes(12) + address_bytes(value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise Malformed(f"{value!r} is no bool")
        return int(value).to_bytes(WORD, "big")
    size = _size_of(kind)
    if kind.startswith("uint"):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 8 * size:
            raise Malformed(f"{value!r} is no {kind}")
        return int(value).to_bytes(WORD, "big")
    raw = bytes(value)
    if len(raw) > size:
        raise Malformed(f"{len(raw)} bytes are no {kind}")
    return raw.ljust(WORD, b"\0")


def _value_at(kind: str, data: bytes, at: int) -> Any:
    word = _part(data, at, WORD)
    if kind in _DYNAMIC:
        return _text_at(kind, data, int.from_bytes(word, "big"))
    if kind == "address":
        return "0x" + _without(word[:12], word[12:]).hex()
    if kind == "bool":
        if word[:31] != bytes(31) or word[31] > 1:
            raise Malformed(f"0x{word.hex()} is no bool")
        return bool(word[31])
    size = _size_of(kind)
    if kind.startswith("uint"):
        return int.from_bytes(_without(word[: WORD - size], word[WORD - size :]), "big")
    return _without(word[size:], word[:size])


def _text_at(kind: str, data: bytes, at: int) -> str | bytes:
    size = int.from_bytes(_part(data, at, WORD), "big")
    padded = size + -size % WORD
    raw = _part(data, at + WORD, padded)
    text = _without(raw[size:], raw[:size])
    return text.decode(errors="replace") if kind == "string" else text


def _part(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise Malformed(f"{len(data)} bytes end before {at} + {size}")
    return data[at : at + size]


def _without(padding: bytes, value: bytes) -> bytes:
    if any(padding):
        raise Malformed(f"the padding 0x{padding.hex()} is not empty")
    return value
