"""Requests as data: one flow, written once as a generator, drives the blocking and the asynchronous client alike."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from retally.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request that the flow wants sent; a streamed answer is handed over unread."""

    method: str
    path: str
    json_body: Mapping[str, Any] | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        if self.json_body is not None:
            return json.dumps(self.json_body, separators=(",", ":")).encode()
        return self.content or b""


@dataclass(frozen=True, slots=True)
class Pause:
    """The flow wants to wait before it goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back; `body` is empty while a streamed answer is unread."""

    status: int
    headers: httpx2.Headers
    body: bytes
    response: httpx2.Response

    @property
    def failed(self) -> bool:
        """Whether this is an error answer."""
        return self.status >= 400

    def json(self) -> Any:
        """The body's JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def error_code(self) -> str:
        """The envelope's code, or nothing."""
        return str(self._error().get("code") or "") if self.failed else ""

    @property
    def error_details(self) -> Mapping[str, Any]:
        """The envelope's operands, or nothing."""
        details = self._error().get("details")
        return details if isinstance(details, dict) else {}

    def _error(self) -> Mapping[str, Any]:
        body = self.json()
        error = body.get("error") if isinstance(body, dict) else None
        return error if isinstance(error, dict) else {}


class Unreachable(Unavailable):
    """The router did not answer at all."""

    code = "router_unreachable"
    hint = "is the router's URL right, and does it run?"


Steps = Generator[HttpCall | Pause, HttpAnswer | None, T]


def call(request: HttpCall) -> Steps[HttpAnswer]:
    """Sends one request inside a flow."""
    answer = yield request
    if answer is None:
        raise TypeError("a call is answered")
    return answer


def pause(seconds: float) -> Steps[None]:
    """Waits inside a flow."""
    yield Pause(seconds)
