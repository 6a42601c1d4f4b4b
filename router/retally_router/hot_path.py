"""The completions path: the node's frames go to the client as the bytes they are, over whatever server there is."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import msgspec
import structlog

from retally.errors import BadRequest, RateLimited, RetallyError, Unavailable, openai_envelope
from retally.protocol.encoding import to_hex
from retally.protocol.params import EMBEDDINGS
from retally_router.accept_job import AcceptJob
from retally_router.asgi_sink import AsgiSink, read_body, wait_gone
from retally_router.assemble import Assembly, receipts_of
from retally_router.begun_job import Repeatable
from retally_router.direct_frames import DirectFrames
from retally_router.embeddings_ask import embeddings_body
from retally_router.job_metrics import JobMetrics
from retally_router.job_use import settle_use
from retally_router.metrics import Metrics
from retally_router.serve_job import ServeJob
from retally_router.sink import ClientGone, Headers, Receive, Scope, Send, Sink
from retally_router.sse import DONE, frame_of
from retally_router.store_errors import StoreError
from retally_router.tracing import RequestSpan, Tracing
from retally_router.turnstile import Turnstile

ENDPOINTS = {"/v1/chat/completions": "chat", "/v1/completions": "text", "/v1/embeddings": EMBEDDINGS}
#: Where a request's scope says that it may be repeated.
REPEATABLE = "retally.repeatable"
PATHS = {endpoint: path for path, endpoint in ENDPOINTS.items()}
_JSON = (b"content-type", b"application/json")
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

log = structlog.get_logger(__name__)


class HotPath:
    """Serves POST /v1/chat/completions and /v1/completions."""

    def __init__(
        self,
        accept: AcceptJob,
        metrics: Metrics,
        jobs: JobMetrics,
        tracing: Tracing,
        *,
        max_body_bytes: int,
        client_seconds: float,
    ) -> None:
        self._accept = accept
        self._tracing = tracing
        self._turnstile = Turnstile()
        self._metrics = metrics
        self._jobs = jobs
        self._max_body_bytes = max_body_bytes
        self._client_seconds = client_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """One request over ASGI; a client that leaves cancels it, down to the node."""
        sink = AsgiSink(send, request_id.encode(), self._client_seconds)
        try:
            async with asyncio.timeout(self._client_seconds):
                raw = await read_body(receive, scope, self._max_body_bytes)
        except RetallyError as error:
            await Answer(sink).fail(error)
            return
        except TimeoutError:
            late = f"the request's body did not come within {self._client_seconds:g} s"
            await Answer(sink).fail(BadRequest(late, code="body_too_slow", hint="send the request again"))
            return
        except ClientGone:
            return
        endpoint = ENDPOINTS[scope["path"]]
        again = scope.get(REPEATABLE)
        work = asyncio.create_task(self.serve(endpoint, dict(scope["headers"]), raw, sink, request_id, again))
        gone = asyncio.create_task(wait_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def serve(
        self,
        endpoint: str,
        headers: Mapping[bytes, bytes],
        raw: bytes,
        sink: Sink,
        request_id: str,
        again: Repeatable | None = None,
    ) -> None:
        """One request whose body is whole; in a task of its own, to be cancelled when the client leaves."""
        answer, began = Answer(sink), time.monotonic()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        span = self._tracing.begin(endpoint, headers, request_id)
        self._metrics.in_flight.inc()
        try:
            await self._run(endpoint, headers, raw, answer, request_id, again, span)
        except RetallyError as error:
            self._jobs.refused(error)
            span.refused(error)
            await answer.fail(self._accept.terms.on(error, PATHS[endpoint], headers))
        except StoreError as error:
            log.warning("store_failed", error=str(error))
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
            self._metrics.served(endpoint, answer.status)
            span.close(answer.status)
            log.info("request", endpoint=endpoint, status=answer.status, seconds=round(time.monotonic() - began, 4))

    async def _run(
        self,
        endpoint: str,
        headers: Mapping[bytes, bytes],
        raw: bytes,
        answer: Answer,
        request_id: str,
        again: Repeatable | None,
        span: RequestSpan,
    ) -> None:
        began = time.monotonic()
        await self._turnstile.enter()
        job = await self._accept.accept(endpoint, headers, raw, request_id, again)
        span.accepted(job)
        self._jobs.accepted(time.monotonic() - began)
        structlog.contextvars.bind_contextvars(job=job.job.job_id.hex())
        try:
            await job.start()
            self._metrics.first_frame.observe(time.monotonic() - began)
            extra = _headers_of(job, with_proof=headers.get(b"x-retally-proof") == b"1")
            if job.job.ask.params.is_embeddings:
                await self._vectors(job, answer, extra)
            elif job.job.ask.stream:
                await self._stream(job, answer, extra)
            else:
                await self._whole(job, answer, extra)
        finally:
            settle_use(job)
            self._jobs.ended(job, began)
            span.ended(job)
            await asyncio.shield(job.finish())
        self._metrics.fees.inc(job.cost)
        self._metrics.tokens.inc(job.job.ask.counted_tokens(choice.ids for choice in job.choices))

    async def _stream(self, job: ServeJob, answer: Answer, extra: Headers) -> None:
        await answer.head(200, [*_STREAM, *extra])
        direct = answer.direct(job)
        while frames := await job.next(direct):
            await answer.body(frames[0].raw if len(frames) == 1 else b"".join([frame.raw for frame in frames]))
        await answer.end(DONE)

    async def _vectors(self, job: ServeJob, answer: Answer, extra: Headers) -> None:
        while await job.next():
            continue
        facts = {
            "jobId": to_hex(job.job.job_id),
            "receipts": receipts_of(job.receipts),
            "cost": str(job.cost),
            "node": job.node,
            "promptTokens": job.prompt_tokens,
        }
        (choice,) = job.choices
        body = embeddings_body(job.job.ask, choice.ids, job.prompt_tokens, facts)
        cost = (b"x-retally-cost", str(job.cost).encode())
        await answer.whole(200, [_JSON, *extra, cost], msgspec.json.encode(body))

    async def _whole(self, job: ServeJob, answer: Answer, extra: Headers) -> None:
        assembly = Assembly(job.job.ask.endpoint)
        while frames := await job.next():
            for frame in frames:
                assembly.add(frame)
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


class Answer:
    """The response: one place that knows what was sent already."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.status = 0
        self.ended = False

    async def head(self, status: int, headers: Headers) -> None:
        """Status and headers."""
        self.status = status
        await self._sink.head(status, headers)

    async def body(self, data: bytes) -> None:
        """More bytes."""
        try:
            await self._sink.body(data)
        except ClientGone:
            self.ended = True
            raise

    def direct(self, job: ServeJob) -> DirectFrames | None:
        """What passes a job's plain frames on meanwhile, where that needs no waiting."""
        out = self._sink.direct
        return None if out is None else DirectFrames(job, out)

    async def end(self, data: bytes) -> None:
        """The last bytes."""
        self.ended = True
        await self._sink.end(data)

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
