"""Hostile requests out of an OpenAPI document: valid ones, changed in one place or in many."""

from __future__ import annotations

import copy
import json
import random
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Json = Any

_NUMBERS: list[Json] = [0, -1, 1, 2**31, 2**53, 2**63, 2**64, 2**256, -(2**63) - 1, 10**400, 0.5, -0.0, 1e300, 1e-300]
_TEXTS: list[Json] = [
    "",
    " ",
    "\x00",
    "x" * 5000,
    "\ud800",
    "🦀" * 50,
    "null",
    "0x",
    "-1",
    "NaN",
    "../..",
    "%00",
    "{",
    "\r\n",
]
_VALUES: list[Json] = [None, True, False, [], {}, [[]], {"": {}}, [None], {"a": 1}, *_NUMBERS, *_TEXTS]
# What Python's json would not write, put into the text of a body.
_LITERALS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"9" * 5000,
    b"0x10",
    b"01",
    b"+1",
    b"1.",
    b'"\\ud800"',
]
_WRECKS = [
    b"",
    b"{",
    b"}",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"\x00" * 64,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"model":"\xc3\x28"}',
    b"{'model': 1}",
    b'{"model":"a","model":"b"}',
    b"<xml/>",
    b'{"a":1}{"a":1}',
]
_HEADER_VALUES = [
    b"",
    b" ",
    b"x" * 300,
    b"\xff\xfe",
    b"Bearer",
    b"Bearer ",
    b"Bearer rtl-",
    b"Basic eDp5",
    b"0",
    b"9" * 400,
    b"{}",
]
_HEADER_NAMES = [
    b"authorization",
    b"x-retally-authorization",
    b"x-retally-deadline",
    b"x-retally-signature",
    b"x-retally-proof",
    b"idempotency-key",
    b"x-request-id",
    b"content-type",
    b"accept-encoding",
    b"x-session-id",
]
_SEGMENTS = [
    "",
    "0",
    "x",
    "..",
    "%00",
    "%ff",
    "0x" + "0" * 64,
    "0x" + "ab" * 20,
    "9" * 300,
    "é",
    "a/b",
    "%2e%2e",
    "null",
]
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "FOO"]


@dataclass(frozen=True)
class Case:
    """One request."""

    method: str
    target: str
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def raw(self, host: str) -> bytes:
        """As it goes over the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1".encode(), b"host: " + host.encode()]
        lines += [name + b": " + value for name, value in self.headers]
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join([*lines, b"", b""]) + self.body


class Cases:
    """Draws cases; the same seed draws the same."""

    def __init__(self, document: Mapping[str, Any], seed: int, api_key: str, names: Mapping[str, str]) -> None:
        self._random = random.Random(seed)
        self._authorization = (b"authorization", b"Bearer " + api_key.encode())
        self._schemas = document["components"]["schemas"]
        self._operations = [
            (path, method.upper(), operation)
            for path, operations in sorted(document["paths"].items())
            for method, operation in sorted(operations.items())
        ]
        self._names = names

    @property
    def routes(self) -> list[str]:
        """What is asked."""
        return [f"{method} {path}" for path, method, _ in self._operations]

    def draw(self) -> Case:
        """The next case."""
        path, method, operation = self._random.choice(self._operations)
        target = self._target(path, operation)
        body, headers = b"", [self._authorization] if self._random.random() < 0.9 else []
        if "requestBody" in operation:
            body = self._body(operation["requestBody"]["content"]["application/json"])
            headers.append((b"content-type", b"application/json"))
        if self._random.random() < 0.25:
            headers.append(self._header(body))
        if self._random.random() < 0.03:
            method = self._random.choice(_METHODS)
        return Case(method, target, body, headers)

    def _target(self, path: str, operation: Mapping[str, Any]) -> str:
        query = []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                drawn = self._random.choice([*_SEGMENTS, *self._names.values()])
                path = path.replace("{" + parameter["name"] + "}", quote(drawn, safe="%/."))
            elif parameter["in"] == "query" and self._random.random() < 0.9:
                drawn = self._random.choice([*_SEGMENTS, *self._names.values(), "chatcmpl-" + "0" * 24])
                query.append(f"{parameter['name']}={quote(drawn, safe='%')}")
        return path + ("?" + "&".join(query) if query else "")

    def _header(self, body: bytes) -> tuple[bytes, bytes]:
        name = self._random.choice(_HEADER_NAMES)
        if name == b"x-retally-authorization" and self._random.random() < 0.5:
            return name, urlsafe_b64encode(body[:3000] or b"{}").rstrip(b"=")
        return name, self._random.choice(_HEADER_VALUES)

    def _body(self, content: Mapping[str, Any]) -> bytes:
        kind = self._random.random()
        if kind < 0.06:
            return self._random.choice(_WRECKS)
        body = self._named(copy.deepcopy(content["example"]))
        schema = self._schemas[content["schema"]["$ref"].rpartition("/")[2]]
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            self._mutate(body, schema)
        text = json.dumps(body).encode()
        if kind < 0.16:
            text = self._with_literal(text)
        elif kind < 0.2:
            text = text[: self._random.randrange(len(text))]
        elif kind < 0.23:
            at = self._random.randrange(len(text))
            text = text[:at] + bytes([self._random.randrange(256)]) + text[at + 1 :]
        return text

    def _named(self, value: Json) -> Json:
        if isinstance(value, dict):
            return {name: self._named(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._named(item) for item in value]
        return self._names.get(value, value) if isinstance(value, str) else value

    def _mutate(self, body: Json, schema: Mapping[str, Any]) -> None:
        holder, place = self._random.choice(_places(body))
        way = self._random.random()
        if way < 0.35:
            name = self._random.choice(sorted(schema["properties"]))
            body[name] = self._value()
        elif way < 0.75:
            holder[place] = self._value()
        elif way < 0.85:
            del holder[place]
        elif way < 0.93:
            body[self._random.choice(["colour", "__proto__", "", "tools", "response_format", "store"])] = self._value()
        else:
            nested: Json = "x"
            for _ in range(self._random.choice((5, 50, 400))):
                nested = [nested] if self._random.random() < 0.5 else {"a": nested}
            holder[place] = nested

    def _value(self) -> Json:
        # A copy: the next change may go into it.
        return copy.deepcopy(self._random.choice(_VALUES))

    def _with_literal(self, text: bytes) -> bytes:
        start = text.find(b": ", self._random.randrange(len(text)))
        end = min((at for at in (text.find(b",", start), text.find(b"}", start)) if at > start), default=-1)
        if start < 0 or end < 0:
            return text
        return text[: start + 2] + self._random.choice(_LITERALS) + text[end:]


def _places(value: Json) -> list[tuple[Json, Any]]:
    found: list[tuple[Json, Any]] = []
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found or [({"x": 1}, "x")]
