"""`retally proxy`: a local OpenAI endpoint that pays with your own key, for any client in any language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from retally.ask import PATHS
from retally.chain.recursion import bound_recursion
from retally.client import Payment
from retally.errors import (
    BadRequest,
    NotFound,
    PayloadTooLarge,
    RetallyError,
    Unauthorized,
    Unavailable,
    openai_envelope,
)
from retally.http_steps import Unreachable
from retally.transport import EXTENSION, AsyncPaymentTransport

MAX_BODY_BYTES = 8 << 20
TIMEOUT_SECONDS = 600.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSED = frozenset({"content-type", "x-request-id", "x-retally-job", "x-retally-cost", "retry-after", "cache-control"})


def create_app(payment: Payment, router_url: str, inner: httpx2.AsyncBaseTransport | None = None) -> FastAPI:
    """The app; `inner` is the transport to the router."""
    transport = AsyncPaymentTransport(inner or httpx2.AsyncHTTPTransport(), payment.new_call)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        bound_recursion()
        yield
        await transport.aclose()

    app = FastAPI(title="retally proxy", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_guards(app)
    gate = _Gate(transport, router_url.rstrip("/").removesuffix("/v1"))
    for path in PATHS:
        app.add_api_route(path, gate.complete, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", gate.pass_on, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models/{name:path}", gate.pass_on, methods=["GET"], response_model=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, object]:
        wallet = payment.wallet
        return {"status": "ok", "payer": None if wallet is None else wallet.payer, "spent": str(payment.guard.used)}

    return app


class _Gate:
    """Carries requests to the router and answers back."""

    def __init__(self, transport: AsyncPaymentTransport, router_url: str) -> None:
        self._transport = transport
        self._router_url = router_url

    async def complete(self, request: Request) -> Response:
        """A completion, paid with the proxy's wallet."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise PayloadTooLarge(MAX_BODY_BYTES)
            parts.append(part)
        return await self._carry(request, b"".join(parts))

    async def pass_on(self, request: Request) -> Response:
        """A request that costs nothing."""
        return await self._carry(request, b"")

    async def _carry(self, request: Request, body: bytes) -> Response:
        timeout = httpx2.Timeout(TIMEOUT_SECONDS, connect=10.0).as_dict()
        # The caller's own headers stay here: its key is none of the router's business.
        outgoing = httpx2.Request(
            request.method,
            self._router_url + request.url.path,
            headers={"content-type": "application/json", "accept-encoding": "identity"},
            content=body,
            extensions={"timeout": timeout},
        )
        try:
            answer = await self._transport.handle_async_request(outgoing)
        except httpx2.TransportError as error:
            raise Unreachable(f"{self._router_url} does not answer: {error}") from error
        headers = {name: value for name, value in answer.headers.items() if name.lower() in _PASSED}
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return StreamingResponse(_stream(answer), answer.status_code, headers=headers)
        try:
            content = await answer.aread()
        finally:
            await answer.aclose()
        result = answer.extensions.get(EXTENSION)
        if result is not None and result.finished:
            headers["x-retally-checks"] = result.checks.word
        return Response(content, answer.status_code, headers=headers)


async def _stream(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx2.TransportError as error:
        broken = Unavailable(f"the router broke off: {error}", code="stream_broken")
        yield b"data: " + JSONResponse(openai_envelope(broken)).body + b"\n\n"
    finally:
        await answer.aclose()


def _add_guards(app: FastAPI) -> None:
    @app.middleware("http")
    async def only_local(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        # The wallet pays for whoever asks: web pages that reach for localhost are not to be served.
        try:
            _check_local(request.headers.get("host"), request.headers.get("origin"))
        except RetallyError as error:
            return _envelope(error)
        return await go_on(request)

    async def of_retally(_: Request, error: Exception) -> Response:
        return _envelope(error if isinstance(error, RetallyError) else RetallyError(str(error)))

    async def of_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status == 404:
            return _envelope(NotFound(f"there is no {request.url.path} here"))
        code = "method_not_allowed" if status == 405 else "bad_request"
        return JSONResponse(openai_envelope(BadRequest(f"{request.method} is not allowed here", code=code)), status)

    app.add_exception_handler(RetallyError, of_retally)
    app.add_exception_handler(HTTPException, of_http)


def _check_local(host: str | None, origin: str | None) -> None:
    if urlsplit(f"//{host or ''}").hostname not in _LOOPBACK:
        raise Unauthorized(f"this proxy serves its own machine only, not {host}", code="not_local")
    if origin is not None and urlsplit(origin).hostname not in _LOOPBACK:
        raise Unauthorized(f"web pages of {origin} may not spend here", code="foreign_origin")


def _envelope(error: RetallyError) -> Response:
    return JSONResponse(openai_envelope(error), error.status)
