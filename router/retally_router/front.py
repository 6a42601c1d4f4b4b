"""The app: completions go straight to the hot path, all else to the app; every response has an x-request-id."""

from __future__ import annotations

import structlog

from retally_router.hot_path import ENDPOINTS, HotPath
from retally_router.other_paths import is_plain
from retally_router.request_id import REQUEST_ID, request_id_of
from retally_router.sink import Message, Receive, Scope, Send


class Front:
    """A pure ASGI callable in front of the app; lifespan goes to it."""

    def __init__(self, hot: HotPath, rest: object) -> None:
        self.hot = hot
        self.rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request, or the server's lifespan, on."""
        if scope["type"] != "http":
            await self.rest(scope, receive, send)  # type: ignore[operator]  # any ASGI app
            return
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        if scope["method"] == "POST" and scope["path"] in ENDPOINTS and is_plain(headers):
            await self.hot(scope, receive, send, request_id)
            return
        header = (REQUEST_ID, request_id.encode())

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.rest(scope, receive, send_named)  # type: ignore[operator]  # any ASGI app
