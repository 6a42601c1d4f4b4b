"""An ASGI app behind the native server: everything but the completions, which have a path of their own."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from retally_router.native_line import Request
from retally_router.native_sink import NativeSink
from retally_router.sink import Message


def path_of(request: Request) -> str:
    """The path, without the query and decoded."""
    return unquote_to_bytes(request.url.partition(b"?")[0]).decode("utf-8", "replace")


def scope_of(request: Request) -> dict[str, Any]:
    """The request as ASGI has it."""
    raw_path, _, query = request.url.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.version,
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": path_of(request),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": None,
        "server": None,
        "state": {},
    }


async def run_asgi(app: Any, request: Request, sink: NativeSink) -> None:
    """One request through the app; the body is whole already."""
    asked = False
    begun: tuple[int, list[tuple[bytes, bytes]]] | None = None

    async def receive() -> Message:
        nonlocal asked
        if asked:
            # Who waits for the client to leave is cancelled when it does.
            await asyncio.get_running_loop().create_future()
        asked = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = message["status"], list(message.get("headers", ()))
            await sink.head(*begun)
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            await (sink.body(body) if message.get("more_body") else sink.end(body))

    await app(scope_of(request), receive, send)
