"""The outermost layer of HTTP: request ids, body limit, and OpenAI's envelope on every error."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retally.errors import BadRequest, NotFound, PayloadTooLarge, RateLimited, RetallyError, openai_envelope

log = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID = 128


class HttpEdge:
    """A pure ASGI layer: names each request and counts its body."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode("latin-1")

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        await self._app(scope, _Counted(receive, self._limit), send_named)


class _Counted:
    """A body that refuses to grow beyond the limit, whatever its header says."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._count = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            if self._count > self._limit:
                raise PayloadTooLarge(self._limit)
        return message


def _request_id(scope: Scope) -> bytes:
    given = dict(scope["headers"]).get(REQUEST_ID, b"")
    # A foreign id is echoed only if it can't break a header or a log line.
    if 0 < len(given) <= MAX_REQUEST_ID and all(33 <= byte <= 126 for byte in given):
        return bytes(given)
    return b"req_" + secrets.token_hex(12).encode()


async def read_json(request: Request) -> Any:
    """The JSON of a body; BadRequest if it is none."""
    body = await request.body()
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "send one JSON object in UTF-8"
        raise BadRequest(f"the body is no valid JSON: {error}", code="invalid_json", hint=hint) from error


def error_response(error: RetallyError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as HTTP."""
    named = dict(headers or {})
    if isinstance(error, RateLimited):
        named["retry-after"] = str(max(1, round(error.retry_after)))
    return JSONResponse(openai_envelope(error), error.status, headers=named)


def install_error_handlers(app: FastAPI) -> None:
    """Every error of the app leaves in the envelope."""

    async def of_retally(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RetallyError)
        return error_response(error)

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return error_response(BadRequest(f"{where}: {first['msg']}", param=where))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == NotFound("").status:
            return error_response(NotFound(f"there is no {request.url.path}"))
        plain = BadRequest(str(error.detail))
        return JSONResponse(openai_envelope(plain), error.status_code, headers=dict(error.headers or {}))

    async def of_bug(request: Request, error: Exception) -> JSONResponse:
        log.exception("unhandled error on %s", request.url.path, exc_info=error)
        return error_response(RetallyError("the node failed; see its log"))

    app.add_exception_handler(RetallyError, of_retally)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_bug)
