"""One connection to a node: its answer in whole reads, with limits on what a hostile one may send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

from retally.errors import NodeUnavailable, RetallyError, UpstreamTimeout

HEAD_BYTES = 64 * 1024
# What may come between two bytes of a body: chunk sizes, their extensions, trailers.
OVERHEAD_BYTES = 64 * 1024
HIGH_WATER = 256 * 1024


class Upstream(asyncio.Protocol):
    """A keep-alive connection; serves one request after the other."""

    def __init__(self, free: Callable[[Upstream], None], lost: Callable[[Upstream], None]) -> None:
        self._free = free
        self._lost = lost
        self._out: asyncio.Transport | None = None
        self._parser: Any = None
        self._parts: list[bytes] = []
        self._held = self._head = self._overhead = self._status = 0
        self._ended = self._reusable = self._sized = self._paused = self._in_head = self._lingering = False
        self._broken: RetallyError | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: What may take the next bytes before the waiter is woken.
        self._direct: Callable[[bytes], bool] | None = None
        self._late = ""
        self.deadline = 0.0
        #: The deadline that had passed when the pool last looked.
        self.overdue = 0.0
        self.idle_since = 0.0
        self.busy = False

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._out is not None and not self._out.is_closing() and self._broken is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The node accepted."""
        self._out = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """The node broke off, or we did."""
        if not self._ended:
            # An answer without a length ends with its connection.
            if self._status and not self._in_head and not self._sized and error is None:
                self._ended = True
            else:
                self._break(NodeUnavailable(f"the node broke off: {error or 'it closed the connection'}"))
        self._wake()
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        """Parses; what came before a fault is kept and handed out first."""
        if not self.busy:
            self.abort(NodeUnavailable("the node sent what nobody asked for"))
            return
        held = self._held
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self.abort(NodeUnavailable(f"the node sent no HTTP: {error}"))
            return
        except httptools.HttpParserUpgrade:
            self.abort(NodeUnavailable("the node wants to speak another protocol"))
            return
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.abort(NodeUnavailable(f"the node's headers are larger than {HEAD_BYTES} bytes"))
        elif self._held == held:
            self._overhead += len(data)
            if self._overhead > OVERHEAD_BYTES:
                self.abort(NodeUnavailable(f"the node sent {OVERHEAD_BYTES} bytes around its answer, none of it"))
        else:
            self._overhead = 0
        if self._held > HIGH_WATER and not self._paused and self._out is not None:
            self._paused = True
            self._out.pause_reading()
        if self._direct is None or not self._is_passed(self._direct):
            self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Only where the answer ends matters."""
        lower = name.lower()
        if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self._sized = True

    def on_headers_complete(self) -> None:
        """The status is known; 1xx is no answer yet."""
        if self._ended:
            # A second answer to one question: nothing of it may be taken for part of the first.
            self._reusable = False
            return
        status = self._parser.get_status_code()
        if status >= 200:
            self._status, self._in_head = status, False
            self._reusable = self._sized and self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._ended and self.busy:
            self._parts.append(body)
            self._held += len(body)

    def on_message_complete(self) -> None:
        """The end of the answer."""
        if self._in_head:
            return
        self._ended = True
        self.deadline = 0.0
        if self._lingering:
            self.done()

    async def ask(self, head: bytes, body: bytes, deadline: float, late: str) -> int:
        """Sends a request; the answer's status."""
        assert self._out is not None
        self._parser = httptools.HttpResponseParser(self)
        self._head = self._overhead = self._status = 0
        self._ended = self._sized = self._reusable = self._lingering = False
        self._in_head = self.busy = True
        self.deadline, self._late = deadline, late
        self._out.write(head + body)
        while self._in_head and self._broken is None:
            await self._wait()
        if self._in_head and self._broken is not None:
            raise self._broken
        return self._status

    async def next(self, deadline: float, late: str, direct: Callable[[bytes], bool] | None = None) -> bytes:
        """All that came since the last time; empty at the end. Raises what broke the answer, after what came before.

        What arrives while it is waited for is shown to `direct` first, read by read; what that takes is not in it.
        """
        if not self._parts and not self._ended:
            # Not again after a read without a part of the body: what `direct` took meanwhile has moved it.
            self.deadline, self._late = deadline, late
        while not self._parts:
            if self._broken is not None:
                raise self._broken
            if self._ended:
                self.done()
                return b""
            self._direct = direct
            try:
                await self._wait()
            finally:
                self._direct = None
        parts, self._parts = self._parts, []
        self._held, self.deadline = 0, 0.0
        if self._paused and self.is_open and self._out is not None:
            self._paused = False
            self._out.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def done(self) -> None:
        """The answer was read, or nobody wants the rest."""
        if not self.busy:
            return
        self.busy, self.deadline = False, 0.0
        # The next request has a parser of its own; many connections are idle.
        self._parser = None
        self._parts, self._held = [], 0
        if self._ended and self._reusable and self.is_open and not self._paused:
            self._free(self)
        elif self._out is not None:
            self._out.abort()

    def linger(self, deadline: float) -> None:
        """All that matters was read: waits for the answer's formal end, so that the connection can serve again."""
        if self._ended or self._paused:
            self.done()
        else:
            self._lingering, self.deadline = True, deadline

    def expire(self) -> None:
        """The deadline passed."""
        self.abort(UpstreamTimeout(self._late))

    def abort(self, why: RetallyError) -> None:
        """Breaks the connection."""
        self._break(why)
        if self._out is not None:
            self._out.abort()
        self._wake()

    def _break(self, why: RetallyError) -> None:
        if self._broken is None:
            self._broken = why

    def _is_passed(self, direct: Callable[[bytes], bool]) -> bool:
        """Whether nobody has to be woken for what was just read."""
        # Of what was not taken all is left: where there are two parts somebody is woken already.
        if self._ended or self._paused or len(self._parts) != 1 or not direct(self._parts[0]):
            return False
        self._parts, self._held = [], 0
        return True

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
