"""How a running job leaves over HTTP: a stream that notices when its reader has gone, or one object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from retally.errors import RetallyError
from retally_node.answer import AnswerWriter
from retally_node.openai_shape import Json
from retally_node.segment import Frame

SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class FrameSource(Protocol):
    """Where frames come from: a running job or a stored answer."""

    def frames(self) -> AsyncIterator[Frame]:
        """The frames, until every choice is closed."""

    def delivered(self, frame: Frame) -> None:
        """A frame has left."""

    def leave(self) -> None:
        """Nobody reads any more."""


def sse(body: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class JobStream(Response):
    """An ASGI response: nothing is sent before the first frame, so that an early failure keeps its status."""

    def __init__(self, source: FrameSource, writer: AnswerWriter, first: Frame, rest: AsyncIterator[Frame]) -> None:
        super().__init__()
        self._source = source
        self._writer = writer
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, and stop when the client has gone."""
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with suppress(OSError):
                    sending.result()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            self._source.leave()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        error: RetallyError | None = None
        async for frame in self._frames():
            error = error or frame.error
            events = b"".join(sse(body) for body in self._writer.stream(frame))
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
            self._source.delivered(frame)
        await send({"type": "http.response.body", "body": self._ending(error), "more_body": False})

    async def _frames(self) -> AsyncIterator[Frame]:
        yield self._first
        async for frame in self._rest:
            yield frame

    def _ending(self, error: RetallyError | None) -> bytes:
        if error is not None:
            return sse(self._writer.error_event(error))
        closing = self._writer.closing()
        return (b"" if closing is None else sse(closing)) + b"data: [DONE]\n\n"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
