"""Contract ABIs: encoding calls, decoding results, events and custom errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from retally.chain.words import Malformed, decode_words, encode_words, is_plain
from retally.protocol.encoding import checksum_address, keccak

CONTRACTS = (
    "Audits", "Court", "DevAsset", "Escrow", "Faults", "JurorPools",
    "Registry", "Silence", "Staking", "TreeFaults",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument: its name, its canonical type, its members if it is a struct."""

    name: str
    type: str
    members: tuple[Parameter, ...]
    indexed: bool = False

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Parameter:
        """The parameter of an ABI entry."""
        members = tuple(cls.from_json(member) for member in item.get("components", ()))
        kind = str(item["type"])
        if members:
            kind = "(" + ",".join(member.type for member in members) + ")" + kind.removeprefix("tuple")
        return cls(str(item.get("name", "")), kind, members, bool(item.get("indexed", False)))

    def python(self, value: Any) -> Any:
        """The decoded value with EIP-55 addresses."""
        if self.type.endswith("]"):
            inner = Parameter(self.name, self.type[: self.type.rindex("[")], self.members)
            return tuple(inner.python(item) for item in value)
        if self.members:
            return tuple(member.python(item) for member, item in zip(self.members, value, strict=True))
        return checksum_address(value) if self.type == "address" else value


@dataclass(frozen=True, slots=True)
class Entry:
    """A function, an event or an error."""

    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    topic: bytes

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Entry:
        """The entry of an ABI."""
        inputs = tuple(Parameter.from_json(each) for each in item.get("inputs", ()))
        outputs = tuple(Parameter.from_json(each) for each in item.get("outputs", ()))
        signature = f"{item['name']}({','.join(each.type for each in inputs)})"
        return cls(str(item["name"]), inputs, outputs, keccak(signature.encode()))

    @property
    def selector(self) -> bytes:
        """The first four bytes of calls and errors."""
        return self.topic[:4]

    def encode_call(self, args: Sequence[Any]) -> bytes:
        """The calldata of a call."""
        return self.selector + _encode([each.type for each in self.inputs], list(args))

    def decode_result(self, data: bytes) -> Any:
        """What a call returned: one value, or a tuple of several."""
        values = _decode(self.outputs, data)
        return values[0] if len(self.outputs) == 1 else values

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The arguments of an event by name; a hashed (dynamic) indexed one stays its hash."""
        found: dict[str, Any] = {}
        for each, topic in zip([each for each in self.inputs if each.indexed], topics[1:], strict=True):
            dynamic = each.type in ("string", "bytes") or each.type.endswith("]")
            found[each.name] = topic if dynamic else _decode((each,), topic)[0]
        plain = tuple(each for each in self.inputs if not each.indexed)
        found.update(zip([each.name for each in plain], _decode(plain, data), strict=True))
        return found


def _encode(types: Sequence[str], args: Sequence[Any]) -> bytes:
    if is_plain(types):
        return encode_words(types, args)
    # Loaded here: whoever needs plain words alone, as the router does, goes without it.
    from eth_abi.abi import encode

    return encode(types, args)


def _decode(parameters: Sequence[Parameter], data: bytes) -> tuple[Any, ...]:
    types = [each.type for each in parameters]
    values = decode_words(types, data) if is_plain(types) else _decode_any(types, data)
    return tuple(each.python(value) for each, value in zip(parameters, values, strict=True))


def _decode_any(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    from eth_abi.exceptions import DecodingError

    try:
        return tuple(_lenient_codec().decode(types, data))
    except DecodingError as error:
        raise Malformed(str(error)) from error


@cache
def _lenient_codec() -> Any:
    """eth_abi's, but text that is no UTF-8 is read as `words` reads it."""
    from eth_abi.codec import ABICodec
    from eth_abi.decoding import ByteStringDecoder
    from eth_abi.registry import BaseEquals, registry

    class Text(ByteStringDecoder):
        def decode(self, stream: Any) -> Any:
            raw: bytes = super().decode(stream)  # type: ignore[no-untyped-call]
            return raw.decode(errors="replace")

        @classmethod
        def from_type_str(cls, *_: Any) -> Any:
            return cls()

    lenient: Any = registry.copy()  # type: ignore[no-untyped-call]
    lenient.unregister_decoder("string")
    lenient.register_decoder(BaseEquals("string", with_sub=False), Text, label="string")  # type: ignore[no-untyped-call]
    return ABICodec(lenient)


@dataclass(frozen=True)
class Abi:
    """All that one contract understands and says."""

    name: str
    functions: Mapping[str, Entry]
    events: Mapping[bytes, Entry]
    errors: Mapping[bytes, Entry]


@cache
def load_abi(name: str) -> Abi:
    """The committed ABI of a contract."""
    items = load_artifact(name)["abi"]
    entries = {
        kind: [Entry.from_json(i) for i in items if i["type"] == kind] for kind in ("function", "event", "error")
    }
    return Abi(
        name,
        {entry.name: entry for entry in entries["function"]},
        {entry.topic: entry for entry in entries["event"]},
        {entry.selector: entry for entry in entries["error"]},
    )


def load_artifact(name: str) -> dict[str, Any]:
    """The committed artifact of a contract: `abi`, `bytecode`."""
    text = files("retally.chain").joinpath("abi", f"{name}.json").read_text(encoding="utf-8")
    artifact: dict[str, Any] = json.loads(text)
    return artifact


@cache
def _errors() -> dict[bytes, Entry]:
    standard = (
        {"name": "Error", "inputs": [{"name": "message", "type": "string"}]},
        {"name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
    )
    table = {entry.selector: entry for entry in (Entry.from_json(item) for item in standard)}
    for name in CONTRACTS:
        table.update(load_abi(name).errors)
    return table


def decode_error(data: bytes) -> tuple[str, dict[str, Any]]:
    """The name and operands of what a contract reverted with."""
    entry = _errors().get(data[:4])
    if entry is None:
        return ("UnknownError", {"data": "0x" + data.hex()}) if data else ("Reverted", {})
    try:
        values = _decode(entry.inputs, data[4:])
    except Malformed:
        return entry.name, {"data": "0x" + data.hex()}
    return entry.name, dict(zip([each.name for each in entry.inputs], values, strict=True))
