"""One client connection of the native server: HTTP/1.1 with limits on everything that a client can drag out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol, cast

import httptools
import msgspec

from retally.errors import BadRequest, PayloadTooLarge, RetallyError, openai_envelope
from retally.keep_alive import SERVER_SECONDS
from retally_router.native_sink import NativeSink
from retally_router.request_id import request_id_of

HEAD_BYTES = 64 * 1024
# Requests that a client may send ahead before its first one is answered.
AHEAD = 16
HIGH_WATER = 64 * 1024
LINGER_SECONDS = 1.0


class HeadersTooLarge(BadRequest):
    """The request's head is larger than anybody needs."""

    status = 431
    code = "headers_too_large"


@dataclass(slots=True)
class Request:
    """One request, whole."""

    method: bytes
    url: bytes
    headers: list[tuple[bytes, bytes]]
    version: str
    keep_alive: bool
    body: bytes = b""
    fault: RetallyError | None = None
    by_name: dict[bytes, bytes] = field(default_factory=dict)


class Owner(Protocol):
    """What a connection needs of its server."""

    max_body_bytes: int
    client_seconds: float
    date: bytes
    stopping: bool
    lines: set[NativeLine]
    tasks: set[asyncio.Task[None]]

    def respond(self, request: Request, sink: NativeSink, request_id: str) -> Awaitable[None]:
        """Answers a request in full."""
        ...


class NativeLine(asyncio.Protocol):
    """One connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._out: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._paused = self._closed = False
        self._in_head = True
        self._head_bytes = self._size = self._loose = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._request: Request | None = None
        self.deadline = time.monotonic() + owner.client_seconds
        self._idle = True

    @property
    def date(self) -> bytes:
        """The date of responses."""
        return self._owner.date

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._out = cast(asyncio.Transport, transport)
        self._out.set_write_buffer_limits(high=HIGH_WATER)
        self._owner.lines.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client left: what is being done for it ends."""
        self._closed = True
        self._owner.lines.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        """The client is slow."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It caught up, or left."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def room(self) -> asyncio.Future[None] | None:
        """What to wait for before more is written."""
        return self._room

    def write(self, data: bytes) -> None:
        """Sends."""
        if not self._closed:
            self._out.write(data)

    def data_received(self, data: bytes) -> None:
        """Parses; what is no HTTP is answered all the same."""
        if self._request is not None and self._request.fault is not None:
            return
        if self._idle:
            self._idle, self.deadline = False, time.monotonic() + self._owner.client_seconds
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._loose += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self._refuse(BadRequest(f"the request is no HTTP: {error}", code="invalid_http", hint="send HTTP/1.1"))
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"the head is larger than {HEAD_BYTES} bytes", hint="send shorter headers"))
        elif self._loose > self._owner.max_body_bytes:
            # Chunk sizes and trailers, without a body that they would be for.
            self._refuse(PayloadTooLarge(self._owner.max_body_bytes))

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: its limits hold, the body may come."""
        parser = self._parser
        by_name = dict(self._headers)
        request = Request(
            parser.get_method(),
            self._url,
            self._headers,
            parser.get_http_version(),
            parser.should_keep_alive(),
            by_name=by_name,
        )
        self._request, self._in_head, self._head_bytes = request, False, 0
        if sum(len(name) + len(value) for name, value in self._headers) > HEAD_BYTES:
            hint = "send shorter headers"
            self._refuse(HeadersTooLarge(f"the head is larger than {HEAD_BYTES} bytes", hint=hint))
            return
        if parser.should_upgrade():
            self._refuse(BadRequest("only HTTP/1.1 is spoken here", code="upgrade_refused", hint="send no `upgrade`"))
            return
        declared = by_name.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._owner.max_body_bytes:
            self._refuse(PayloadTooLarge(self._owner.max_body_bytes))
        elif by_name.get(b"expect", b"").lower() == b"100-continue" and self._task is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._size += len(body)
        self._loose -= len(body)
        if self._size > self._owner.max_body_bytes:
            self._refuse(PayloadTooLarge(self._owner.max_body_bytes))
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        request = self._request
        if request is None or request.fault is not None:
            return
        parts = self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._request, self._url, self._headers, self._parts = None, b"", [], []
        self._size = self._loose = 0
        self._in_head, self._idle, self.deadline = True, True, 0.0
        self._take(request)

    def _take(self, request: Request) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve(request))
            self._owner.tasks.add(self._task)
            self._task.add_done_callback(self._owner.tasks.discard)
            return
        self._waiting.append(request)
        if len(self._waiting) >= AHEAD and not self._paused:
            self._paused = True
            self._out.pause_reading()

    def _refuse(self, error: RetallyError) -> None:
        """Answers what can't be read further, after all that was asked before; then the connection ends."""
        known = self._request
        if known is not None and known.fault is not None:
            return
        refused = known or Request(b"", b"", self._headers, "1.1", keep_alive=False, by_name=dict(self._headers))
        refused.fault, refused.keep_alive = error, False
        self._request, self._parts, self.deadline = refused, [], 0.0
        self._take(refused)

    async def _serve(self, request: Request) -> None:
        try:
            while True:
                await self._answer(request)
                if self._closed or not self._waiting:
                    break
                request = self._waiting.popleft()
        finally:
            self._task = None
        if self._paused and not self._closed:
            self._paused = False
            self._out.resume_reading()
        if self._request is None and self._idle and not self._closed:
            self.deadline = time.monotonic() + SERVER_SECONDS

    async def _answer(self, request: Request) -> None:
        request_id = request_id_of(request.by_name)
        sink = NativeSink(
            self,
            request_id.encode(),
            keep_alive=request.keep_alive and not self._owner.stopping,
            is_old=request.version == "1.0",
            is_head=request.method == b"HEAD",
            client_seconds=self._owner.client_seconds,
        )
        if request.fault is not None:
            await send_error(sink, request.fault)
        else:
            await self._owner.respond(request, sink, request_id)
        if not sink.ended:
            # What was begun can't be ended truly: a break says so.
            self._out.abort()
        elif request.fault is not None and self._out.can_write_eof():
            # Closing now would reset a client that still sends, and take the answer from it.
            self._out.write_eof()
            self._idle, self.deadline = True, time.monotonic() + LINGER_SECONDS
        elif not sink.keep_alive:
            self._waiting.clear()
            self._out.close()

    def expire(self) -> None:
        """The deadline passed: an idle connection closes, a dragged-out request is answered."""
        self.deadline = 0.0
        if self._idle:
            self._out.close()
            return
        late = f"the request did not come within {self._owner.client_seconds:g} s"
        self._refuse(BadRequest(late, code="body_too_slow", hint="send the request again"))

    def close_idle(self) -> None:
        """The server stops."""
        if self._task is None:
            self._out.close()

    def abort(self) -> None:
        """Breaks the connection."""
        self._out.abort()


async def send_error(sink: NativeSink, error: RetallyError) -> None:
    """The error in OpenAI's envelope."""
    body = msgspec.json.encode(openai_envelope(error))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await sink.head(error.status, headers)
    await sink.end(body)
