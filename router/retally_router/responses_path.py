"""POST /v1/responses: the same jobs as chat completions, in the shape of OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from retally.errors import RetallyError, openai_envelope
from retally_router.hot_path import error_headers
from retally_router.make_request import parse_body
from retally_router.responses_request import ResponseAsk, param_of_response, read_response_ask
from retally_router.responses_shape import ResponseEvents, response_of
from retally_router.sink import Message, Receive, Scope, Send
from retally_router.sse import FrameCutter, payload_of

RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"

Chat = Callable[[Scope, Receive, Send], Awaitable[None]]


class ResponsesPath:
    """An ASGI callable over the chat path: body and answer are translated, all else is the chat path's."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def __call__(self, scope: Scope, raw: bytes, receive: Receive, send: Send) -> None:
        """One request whose body was read already."""
        try:
            ask = read_response_ask(parse_body(raw))
        except RetallyError as error:
            await send_error(send, error)
            return
        body = msgspec.json.encode(ask.chat)
        answer = _Answer(ask, send)
        await self._chat(with_body(scope, CHAT, body), first_then(body, receive), answer.take)


def with_body(scope: Scope, path: str, body: bytes) -> Scope:
    """The request as if it had come with that path and body."""
    headers = [
        (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")
    ]
    headers.append((b"content-length", str(len(body)).encode()))
    return {**scope, "path": path, "raw_path": path.encode(), "headers": headers}


def first_then(body: bytes, receive: Receive) -> Receive:
    """Gives a body out once, then whatever the client does."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def send_error(send: Send, error: RetallyError) -> None:
    """An error as the whole response."""
    data = msgspec.json.encode(openai_envelope(error))
    length = (b"content-length", str(len(data)).encode())
    headers = [(b"content-type", b"application/json"), *error_headers(error), length]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class _Answer:
    """Takes the chat path's messages, sends the translated ones."""

    def __init__(self, ask: ResponseAsk, send: Send) -> None:
        self._ask = ask
        self._send = send
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._cutter = FrameCutter()
        self._events = ResponseEvents(ask.echo)
        self._failed = False

    async def take(self, message: Message) -> None:
        """One message of the chat path."""
        if message["type"] == "http.response.start":
            self._start = message
            if self._is_stream:
                await self._send(message)
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        if self._is_stream:
            await self._send({**message, "body": self._translate(data)})
            return
        self._parts.append(data)
        if not more:
            await self._send_whole(b"".join(self._parts))

    @property
    def _is_stream(self) -> bool:
        return bool(self._ask.stream and self._start["status"] == 200)

    def _translate(self, data: bytes) -> bytes:
        out = []
        for frame in self._cutter.feed(data):
            payload = payload_of(frame)
            if payload == b"[DONE]":
                out.append(b"" if self._failed else self._events.end())
            elif payload:
                value: dict[str, Any] = msgspec.json.decode(payload)
                self._failed = self._failed or "error" in value
                out.append(self._events.take(value))
        return b"".join(out)

    async def _send_whole(self, raw: bytes) -> None:
        body = msgspec.json.decode(raw)
        if self._start["status"] == 200:
            body = response_of(body, self._ask.echo)
        else:
            body["error"]["param"] = param_of_response(body["error"].get("param"))
        data = msgspec.json.encode(body)
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(data)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})
