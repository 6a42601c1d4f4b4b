"""Uvicorn's HTTP with what it leaves open: errors in the envelope, an end to slow or endless headers."""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from retally.errors import BadRequest, openai_envelope

HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 20.0
# Of a body after its answer: closed at once, a client that still sends would lose the answer.
UNREAD_BYTES = 4 * 1024 * 1024


class RouterProtocol(HttpToolsProtocol):
    """One connection."""

    _waiting: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _unread_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base has it
        """A client that opens a connection has something to ask."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes before a body."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > HEADER_BYTES:
            self._refuse(431, f"the headers are larger than {HEADER_BYTES} bytes", "headers_too_large")

    def on_message_begin(self) -> None:
        """A request starts: its headers must come soon."""
        self._stop_waiting()
        self._unread_bytes = 0
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """What follows is the body, which has limits of its own."""
        self._stop_waiting()
        self._in_headers, self._header_bytes = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body; one that was refused does not go on for ever."""
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > UNREAD_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next bytes are the next request's headers."""
        self._in_headers = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._refuse(400, msg, "invalid_http")

    def _give_up(self) -> None:
        self._refuse(408, f"no request came within {HEADER_SECONDS:g} s", "headers_too_slow")

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, status: int, message: str, code: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        error = BadRequest(message, code=code, hint="send an HTTP/1.1 request")
        body = msgspec.json.encode(openai_envelope(error))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"x-request-id: req_{secrets.token_hex(12)}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
