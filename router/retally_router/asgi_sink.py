"""A response over ASGI, and the reading of a request's body."""

from __future__ import annotations

import asyncio

from retally.errors import PayloadTooLarge
from retally_router.sink import ClientGone, Headers, Message, Receive, Scope, Send


class AsgiSink:
    """One response. The server waits while the client's side is full; a node must not be held up for ever."""

    def __init__(self, send: Send, request_id: bytes, client_seconds: float) -> None:
        self._raw_send = send
        self._request_id = request_id
        self._client_seconds = client_seconds

    async def head(self, status: int, headers: Headers) -> None:
        """Status and headers; the server sends them with the first bytes."""
        named = [*headers, (b"x-request-id", self._request_id)]
        await self._raw_send({"type": "http.response.start", "status": status, "headers": named})

    async def body(self, data: bytes) -> None:
        """More bytes."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    @property
    def direct(self) -> None:
        """None: what the server does with it is waited for."""

    async def end(self, data: bytes) -> None:
        """The last bytes."""
        await self._send({"type": "http.response.body", "body": data})

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._client_seconds):
                await self._raw_send(message)
        except TimeoutError as error:
            raise ClientGone from error


async def read_body(receive: Receive, scope: Scope, limit: int) -> bytes:
    """The request's body; refuses one that is or says it is too large."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise PayloadTooLarge(limit)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise PayloadTooLarge(limit)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def wait_gone(receive: Receive) -> None:
    """Until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
