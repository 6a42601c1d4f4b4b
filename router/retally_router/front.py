"""The app: completions go straight to the hot path, all else to FastAPI; every response has an x-request-id."""

from __future__ import annotations

import secrets

import structlog

from retally_router.hot_path import ENDPOINTS, HotPath, Message, Receive, Scope, Send
from retally_router.other_paths import is_plain

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID = 128


class Front:
    """A pure ASGI callable in front of the FastAPI app; lifespan goes to FastAPI."""

    def __init__(self, hot: HotPath, rest: object) -> None:
        self._hot = hot
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request, or the server's lifespan, on."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)  # type: ignore[operator]  # any ASGI app
            return
        request_id = request_id_of(scope)
        header = (REQUEST_ID, request_id.encode())

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if scope["method"] == "POST" and scope["path"] in ENDPOINTS and is_plain(scope):
                await self._hot(scope, receive, send_named, request_id)
            else:
                await self._rest(scope, receive, send_named)  # type: ignore[operator]  # any ASGI app


def request_id_of(scope: Scope) -> str:
    """The client's id if it is fit for a header and a log line, else a new one."""
    given: bytes = dict(scope["headers"]).get(REQUEST_ID, b"")
    if 0 < len(given) <= MAX_REQUEST_ID and all(33 <= byte <= 126 for byte in given):
        return given.decode()
    return "req_" + secrets.token_hex(12)
