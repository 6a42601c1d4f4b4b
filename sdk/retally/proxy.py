"""`retally proxy`: a local OpenAI endpoint that pays with your own key, for any client in any language."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from urllib.parse import urlsplit

import httpx2
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from retally.ask import PATHS, Ask
from retally.bounded_read import gather_bounded
from retally.call_once import Answer, CallOnce
from retally.chain.recursion import bound_recursion
from retally.client import Payment
from retally.errors import (
    BadRequest,
    Conflict,
    NotFound,
    RemoteError,
    RetallyError,
    Unauthorized,
    Unavailable,
    openai_envelope,
)
from retally.http_steps import Unreachable
from retally.transport import EXTENSION, AsyncPaymentTransport, Call

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 << 20
TIMEOUT_SECONDS = 600.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSED = frozenset({"content-type", "x-request-id", "x-retally-job", "x-retally-cost", "retry-after", "cache-control"})


def create_app(payment: Payment, router_url: str, inner: httpx2.AsyncBaseTransport | None = None) -> FastAPI:
    """The app; `inner` is the transport to the router."""
    root = router_url.rstrip("/").removesuffix("/v1")
    gate = _Gate(payment, inner or httpx2.AsyncHTTPTransport(), root)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        bound_recursion()
        yield
        await gate.close()

    app = FastAPI(title="retally proxy", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_guards(app)
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

    def __init__(self, payment: Payment, inner: httpx2.AsyncBaseTransport, router_url: str) -> None:
        self._payment = payment
        self._transport = AsyncPaymentTransport(inner, self._new_call)
        self._router_url = router_url
        self._once = CallOnce()

    async def complete(self, request: Request) -> Response:
        """A completion, paid with the proxy's wallet: once, however often the caller's client asks for it."""
        body = await gather_bounded(request.stream(), MAX_BODY_BYTES)
        digest = hashlib.sha256(body).digest()
        key = request.headers.get("idempotency-key")
        retried = request.headers.get("x-stainless-retry-count", "0") != "0"
        name = f"{request.url.path} body {digest.hex()}" if key is None else f"{request.url.path} key {key}"
        repeats = retried if key is None else True
        answer = await self._once.run(name, digest, lambda: self._carry(request, body), repeats=repeats)
        return _response(answer)

    async def pass_on(self, request: Request) -> Response:
        """A request that costs nothing."""
        return _response(await self._carry(request, b""))

    async def close(self) -> None:
        """Ends what is under way and closes the connections."""
        await self._once.close()
        await self._transport.aclose()

    def _new_call(self, ask: Ask, headers: Mapping[str, str]) -> Call:
        call = self._payment.new_call(ask, headers)
        _CALLS.get().append(call)
        return call

    async def _carry(self, request: Request, body: bytes) -> Answer:
        calls: list[Call] = []
        _CALLS.set(calls)
        try:
            answer = await self._send(request, body)
        except Exception as error:  # noqa: BLE001 - strangers' answers
            # Whatever a stranger's answer made of it: the caller gets the envelope that its client can read.
            failed = _as_retally(error, signed=_is_signed(calls))
            content = bytes(JSONResponse(openai_envelope(failed)).body)
            answer = Answer(failed.status, {"content-type": "application/json"}, content)
        if not _is_signed(calls):
            return answer
        # Clients try failures again by themselves, which would be another job.
        advice = {"x-should-retry": "false"} if answer.status >= 400 else {}
        return replace(answer, signed=True, headers={**answer.headers, **advice})

    async def _send(self, request: Request, body: bytes) -> Answer:
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
            return Answer(answer.status_code, headers, b"", stream=answer)
        try:
            content = await answer.aread()
        finally:
            await answer.aclose()
        if answer.is_success and not isinstance(json.loads(content), dict):
            # Else a client would find out by itself, without the envelope that says what to do.
            raise ValueError("no JSON object")
        result = answer.extensions.get(EXTENSION)
        if result is not None and result.finished:
            headers["x-retally-checks"] = result.checks.word
        return Answer(answer.status_code, headers, content)


#: The paid calls of the request that a task carries.
_CALLS: ContextVar[list[Call]] = ContextVar("retally_proxy_calls")


def _is_signed(calls: Sequence[Call]) -> bool:
    return any(call.result.evidence.request is not None for call in calls)


def _response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.stream is not None:
        return StreamingResponse(_stream(answer.stream), answer.status, headers=headers)
    return Response(answer.content, answer.status, headers=headers)


def _as_retally(error: Exception, *, signed: bool) -> RetallyError:
    if isinstance(error, RetallyError):
        return error
    if isinstance(error, RecursionError) and not signed:
        return BadRequest("the body nests too deep", code="invalid_json")
    log.warning("an answer of the router can't be read", exc_info=error)
    return RemoteError(502, "bad_answer", f"the router's answer can't be read: {type(error).__name__}")


async def _stream(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except Exception as error:  # noqa: BLE001 - strangers' answers
        # Said in the stream: without it, an answer that broke off looks like one that ended.
        if isinstance(error, httpx2.TransportError):
            broken: RetallyError = Unavailable(f"the router broke off: {error}", code="stream_broken")
        else:
            broken = _as_retally(error, signed=True)
        yield b"data: " + bytes(JSONResponse(openai_envelope(broken)).body) + b"\n\n"
    finally:
        try:
            await answer.aclose()
        except Exception:
            log.warning("a stream was not closed in order", exc_info=True)


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
    # A call that was made already is not made again: OpenAI's clients would try a 409 once more.
    headers = {"x-should-retry": "false"} if isinstance(error, Conflict) else None
    return JSONResponse(openai_envelope(error), error.status, headers)
