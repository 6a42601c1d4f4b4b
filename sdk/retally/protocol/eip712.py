"""Typed messages: hashes, digests and signatures (R-6 to R-8)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Self

import coincurve

from retally.errors import InvalidSignature
from retally.protocol.encoding import (
    Address,
    Bytes32,
    address_bytes,
    address_from_bytes,
    check_fields,
    keccak,
    parse_object,
    u256,
)
from retally.protocol.typed_fields import TypedField, fields_of

__all__ = [
    "Address",
    "Bytes32",
    "Domain",
    "SigningKey",
    "TypedMessage",
    "check_signed_by",
    "keccak",
    "recover",
]

DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
NAME = "retally"
VERSION = "1"
SIGNATURE_BYTES = 64

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_HIGH_BIT = 1 << 255


@dataclass(frozen=True)
class Domain:
    """The EIP-712 domain: one chain, one Escrow."""

    chain_id: int
    escrow: Address

    @cached_property
    def separator(self) -> Bytes32:
        """The domain separator."""
        return keccak(
            keccak(DOMAIN_TYPE.encode())
            + keccak(NAME.encode())
            + keccak(VERSION.encode())
            + u256(self.chain_id)
            + bytes(12)
            + address_bytes(self.escrow)
        )

    @cached_property
    def prefix(self) -> bytes:
        """What every digest of this domain starts with."""
        return b"\x19\x01" + self.separator


class TypedMessage:
    """Base of the signed messages: subclasses are frozen dataclasses whose fields follow TYPE."""

    __slots__ = ()
    TYPE: ClassVar[str]
    _FIELDS: ClassVar[tuple[TypedField, ...]]
    _CHECKS: ClassVar[tuple[Callable[[Any], object], ...]]
    _VALUES: ClassVar[Callable[[Any], tuple[Any, ...]]]
    _ENCODERS: ClassVar[tuple[Callable[[Any], bytes], ...]]
    _WIRES: ClassVar[tuple[tuple[str, Callable[[Any], Any]], ...]]
    _PARSERS: ClassVar[tuple[tuple[str, str, Callable[[object], Any]], ...]]
    _TYPE_HASH: ClassVar[bytes]
    _WIRE_NAMES: ClassVar[frozenset[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._FIELDS = fields = fields_of(cls.TYPE)
        names = [name for name in cls.__annotations__ if name != "TYPE"]
        if names != [field.name for field in fields]:
            raise TypeError(f"{cls.__name__}: fields {names} are not those of {cls.TYPE}")
        cls._CHECKS = tuple(field.check for field in fields)
        cls._VALUES = attrgetter(*names)
        # Which operation a field takes is decided once, here: messages are made and read on every request.
        cls._ENCODERS = tuple(field.encode for field in fields)
        cls._WIRES = tuple((field.wire, field.to_wire) for field in fields)
        cls._PARSERS = tuple((field.name, field.wire, field.from_wire) for field in fields)
        cls._TYPE_HASH = keccak(cls.TYPE.encode())
        cls._WIRE_NAMES = frozenset(field.wire for field in fields)

    def __post_init__(self) -> None:
        for check, value in zip(self._CHECKS, type(self)._VALUES(self), strict=True):
            check(value)
        self._check_whole()

    def _check_whole(self) -> None:
        """What holds between fields; each field alone was checked before."""

    def struct_hash(self) -> Bytes32:
        """EIP-712 hashStruct."""
        values = type(self)._VALUES(self)
        words = [encode(value) for encode, value in zip(self._ENCODERS, values, strict=True)]
        return keccak(self._TYPE_HASH + b"".join(words))

    def digest(self, domain: Domain) -> Bytes32:
        """What is signed, and the id of the message."""
        return keccak(domain.prefix + self.struct_hash())

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of R-4."""
        values = type(self)._VALUES(self)
        return {name: shape(value) for (name, shape), value in zip(self._WIRES, values, strict=True)}

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """The message of a JSON object; strict about fields, types and ranges."""
        name = cls.__name__
        wire: Mapping[str, Any] = parse_object(name, value)
        if wire.keys() != cls._WIRE_NAMES:
            check_fields(name, wire, cls._WIRE_NAMES)
        # Parsing checks what __post_init__ would check again.
        message = object.__new__(cls)
        for field, key, parse in cls._PARSERS:
            object.__setattr__(message, field, parse(wire[key]))
        message._check_whole()
        return message

    def to_abi(self) -> tuple[Any, ...]:
        """The tuple that a contract call takes for the struct."""
        return tuple(getattr(self, field.name) for field in self._FIELDS)


class SigningKey:
    """A secp256k1 key that signs digests deterministically (RFC 6979)."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.address = _address_of(self._key.public_key)

    @classmethod
    def from_hex(cls, secret: str) -> SigningKey:
        """A key from its hex, with or without 0x."""
        return cls(bytes.fromhex(secret.removeprefix("0x")))

    @classmethod
    def generate(cls) -> SigningKey:
        """A new random key."""
        return cls(secrets.token_bytes(32))

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes. Warning: whoever reads them can spend."""
        return self._key.secret

    def sign(self, digest: bytes) -> bytes:
        """The 64-byte EIP-2098 signature of a digest."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        if signature[64] == 0:
            return signature[:64]
        return signature[:32] + bytes([signature[32] | 0x80]) + signature[33:64]

    def __repr__(self) -> str:
        return f"SigningKey({self.address})"


def _address_of(public_key: coincurve.PublicKey) -> Address:
    return _address_of_point(public_key.format(compressed=False))


@lru_cache(maxsize=65536)
def _address_of_point(point: bytes) -> Address:
    return address_from_bytes(keccak(point[1:])[12:])


def recover(digest: bytes, signature: bytes) -> Address:
    """The address that signed the digest; refuses high s, zeros and malformed signatures."""
    if len(signature) != SIGNATURE_BYTES:
        raise InvalidSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    vs = int.from_bytes(signature[32:], "big")
    s = vs & (_HIGH_BIT - 1)
    if s == 0 or s > _HALF_ORDER or not any(signature[:32]):
        raise InvalidSignature("r or s is out of range")
    full = signature[:32] + s.to_bytes(32, "big") + bytes([vs >> 255])
    try:
        public_key = coincurve.PublicKey.from_signature_and_message(full, digest, hasher=None)
    except ValueError as error:
        raise InvalidSignature("no key signs like this") from error
    return _address_of(public_key)


def check_signed_by(digest: bytes, signature: bytes, address: Address) -> None:
    """Raises InvalidSignature unless that address signed the digest."""
    actual = recover(digest, signature)
    if actual != address:
        raise InvalidSignature(expected=address, actual=actual)
