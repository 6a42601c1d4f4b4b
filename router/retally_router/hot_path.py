"""The completions path: a pure ASGI callable; the node's frames go to the client as the bytes they are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError

from retally.errors import BadRequest, PayloadTooLarge, RateLimited, RetallyError, Unavailable, openai_envelope
from retally.protocol.encoding import to_hex
from retally_router.accept_job import AcceptJob
from retally_router.assemble import Assembly, receipts_of
from retally_router.job_metrics import JobMetrics
from retally_router.job_use import settle_use
from retally_router.metrics import Metrics
from retally_router.serve_job import ServeJob
from retally_router.sse import DONE, frame_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ENDPOINTS = {"/v1/chat/completions": "chat", "/v1/completions": "text"}
_JSON = (b"content-type", b"application/json")
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

log = structlog.get_logger(__name__)


class HotPath:
    """Serves POST /v1/chat/completions and /v1/completions."""

    def __init__(
        self, accept: AcceptJob, metrics: Metrics, jobs: JobMetrics, *, max_body_bytes: int, client_seconds: float
    ) -> None:
        self._accept = accept
        self._metrics = metrics
        self._jobs = jobs
        self._max_body_bytes = max_body_bytes
        self._client_seconds = client_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """One request; a client that leaves cancels it, down to the node."""
        answer = Answer(send, request_id, self._client_seconds)
        try:
            async with asyncio.timeout(self._client_seconds):
                raw = await read_body(receive, scope, self._max_body_bytes)
        except RetallyError as error:
            await answer.fail(error)
            return
        except TimeoutError:
            late = f"the request's body did not come within {self._client_seconds:g} s"
            await answer.fail(BadRequest(late, code="body_too_slow", hint="send the request again"))
            return
        except ClientGone:
            return
        work = asyncio.create_task(self._serve(scope, raw, answer))
        gone = asyncio.create_task(_wait_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _serve(self, scope: Scope, raw: bytes, answer: Answer) -> None:
        endpoint, began = ENDPOINTS[scope["path"]], time.monotonic()
        self._metrics.in_flight.inc()
        try:
            await self._run(endpoint, dict(scope["headers"]), raw, answer)
        except RetallyError as error:
            self._jobs.refused(error)
            await answer.fail(self._accept.terms.on(error, scope))
        except RedisError as error:
            await answer.fail(Unavailable(f"the router's store does not answer: {error}"))
        except ClientGone:
            log.info("client_does_not_read")
        except asyncio.CancelledError:
            answer.status = answer.status or 499
            raise
        except Exception:
            log.exception("request_failed")
            await answer.fail(RetallyError("the router failed", hint="report this with the x-request-id"))
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(endpoint=endpoint, status=str(answer.status)).inc()
            log.info("request", endpoint=endpoint, status=answer.status, seconds=round(time.monotonic() - began, 4))

    async def _run(self, endpoint: str, headers: Mapping[bytes, bytes], raw: bytes, answer: Answer) -> None:
        began = time.monotonic()
        job = await self._accept.accept(endpoint, headers, raw, answer.request_id)
        self._jobs.accepted(time.monotonic() - began)
        structlog.contextvars.bind_contextvars(job=job.job.job_id.hex())
        try:
            await job.start()
            self._metrics.first_frame.observe(time.monotonic() - began)
            extra = _headers_of(job, with_proof=headers.get(b"x-retally-proof") == b"1")
            if job.job.ask.stream:
                await self._stream(job, answer, extra)
            else:
                await self._whole(job, answer, extra)
        finally:
            settle_use(job)
            self._jobs.ended(job, began)
            await asyncio.shield(job.finish())
        self._metrics.fees.inc(job.cost)
        self._metrics.tokens.inc(sum(len(choice.ids) for choice in job.choices))

    async def _stream(self, job: ServeJob, answer: Answer, extra: Headers) -> None:
        await answer.head(200, [*_STREAM, *extra])
        while frames := await job.next():
            await answer.body(b"".join([frame.raw for frame in frames]))
        await answer.end(DONE)

    async def _whole(self, job: ServeJob, answer: Answer, extra: Headers) -> None:
        assembly = Assembly(job.job.ask.endpoint)
        while frames := await job.next():
            for frame in frames:
                assembly.add(frame.value)
        body = assembly.body(
            {
                "jobId": to_hex(job.job.job_id),
                "receipts": receipts_of(job.receipts),
                "ids": {str(choice.index): choice.ids for choice in job.choices},
                "cost": str(job.cost),
                "node": job.node,
                "promptTokens": job.prompt_tokens,
            }
        )
        cost = (b"x-retally-cost", str(job.cost).encode())
        await answer.whole(200, [_JSON, *extra, cost], msgspec.json.encode(body))


class ClientGone(Exception):
    """The client left, or takes nothing any more."""


class Answer:
    """The response: one place that knows what was sent already."""

    def __init__(self, send: Send, request_id: str, client_seconds: float) -> None:
        self._raw_send = send
        self._client_seconds = client_seconds
        self.request_id = request_id
        self.status = 0
        self.ended = False

    async def _send(self, message: Message) -> None:
        # The server waits while the client's side is full; a node must not be held up for ever.
        try:
            async with asyncio.timeout(self._client_seconds):
                await self._raw_send(message)
        except TimeoutError as error:
            self.ended = True
            raise ClientGone from error

    async def head(self, status: int, headers: Headers) -> None:
        """Status and headers; the server sends them with the first bytes."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, data: bytes) -> None:
        """More bytes."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """The last bytes."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data})

    async def whole(self, status: int, headers: Headers, data: bytes) -> None:
        """A complete response."""
        await self.head(status, [*headers, (b"content-length", str(len(data)).encode())])
        await self.end(data)

    async def fail(self, error: RetallyError) -> None:
        """The error in OpenAI's envelope: as the response, or as an event when the stream has begun."""
        if self.ended:
            return
        envelope = openai_envelope(error)
        if self.status:
            await self.end(frame_of(envelope))
            return
        await self.whole(error.status, [_JSON, *error_headers(error)], msgspec.json.encode(envelope))


def error_headers(error: RetallyError) -> Headers:
    """The headers that go with an error."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if isinstance(error, RateLimited):
        return [*headers, (b"retry-after", str(max(1, math.ceil(error.retry_after))).encode())]
    if error.status in (409, 503):
        return [*headers, (b"retry-after", b"1")]
    return headers


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


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers_of(job: ServeJob, *, with_proof: bool) -> Headers:
    assert job.placement is not None
    node = job.placement.placed.node
    headers = [
        (b"x-retally-job", to_hex(job.job.job_id).encode()),
        (b"x-retally-node", node.node.encode()),
        *job.held.headers,
    ]
    if with_proof:
        proof = {
            "request": job.job.request.to_wire(),
            "requestSignature": to_hex(job.job.signature),
            "params": job.job.ask.params.to_json(),
            "offer": node.offer.to_wire(),
            "offerSignature": to_hex(node.offer_signature),
        }
        headers.append((b"x-retally-proof", urlsafe_b64encode(msgspec.json.encode(proof)).rstrip(b"=")))
    return headers
