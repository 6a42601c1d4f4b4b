"""A response on the native server: status, headers and bytes to the connection, as few writes as can be."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol, Self

from retally_router.sink import ClientGone, Headers

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


class Line(Protocol):
    """What a response needs of its connection."""

    @property
    def date(self) -> bytes:
        """The date, as a header has it."""
        ...

    def write(self, data: bytes) -> None:
        """Sends, or buffers while the client is slow."""
        ...

    def room(self) -> asyncio.Future[None] | None:
        """What to wait for while the client takes nothing; none while it does."""
        ...


class NativeSink:
    """One response."""

    def __init__(
        self, line: Line, request_id: bytes, *, keep_alive: bool, is_old: bool, is_head: bool, client_seconds: float
    ) -> None:
        self._line = line
        self._request_id = request_id
        self._is_head = is_head
        self._client_seconds = client_seconds
        self.keep_alive = keep_alive
        self._is_old = is_old
        self._chunked = False
        self._held = b""
        self.begun = self.ended = False

    async def head(self, status: int, headers: Headers) -> None:
        """Holds the head back until the first bytes: one write for both."""
        parts = [_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, b"date: ", self._line.date, b"\r\n"]
        sized = False
        for name, value in headers:
            if b"\r" in value or b"\n" in value:
                raise ValueError(f"a line break in the header {name!r}")
            sized = sized or name == b"content-length"
            parts += (name, b": ", value, b"\r\n")
        if not sized and status not in _BODILESS and not self._is_head:
            # A client of HTTP/1.0 reads until the connection closes.
            self._chunked, self.keep_alive = not self._is_old, self.keep_alive and not self._is_old
            if self._chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
        parts += (
            b"x-request-id: ",
            self._request_id,
            b"\r\n" if self.keep_alive else b"\r\nconnection: close\r\n",
            b"\r\n",
        )
        self._held, self.begun = b"".join(parts), True

    async def body(self, data: bytes) -> None:
        """More bytes; waits while the client is slow, and gives it up in the end."""
        self.put(data)
        room = self._line.room()
        if room is not None:
            try:
                async with asyncio.timeout(self._client_seconds):
                    await asyncio.shield(room)
            except TimeoutError as error:
                raise ClientGone from error

    @property
    def direct(self) -> Self:
        """Here."""
        return self

    @property
    def has_room(self) -> bool:
        """Whether what is put there now needs no waiting."""
        return self._line.room() is None

    def put(self, data: bytes) -> None:
        """More bytes, at once."""
        if data and not self._is_head:
            self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def end(self, data: bytes) -> None:
        """The last bytes."""
        if self._is_head:
            data = b""
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._put(data)
        self.ended = True

    def _put(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        self._line.write(data)
