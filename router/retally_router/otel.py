"""Spans of requests, sent to an OpenTelemetry collector: names and attributes by its conventions for generative AI.

No span has a word of a prompt or of an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from retally.errors import RetallyError
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import FinishReason
from retally_router.serve_job import ServeJob
from retally_router.tracing import TRACEPARENT, RequestSpan

OPERATIONS = {"chat": "chat", "text": "text_completion", "embeddings": "embeddings"}
#: Spans that wait for the collector; more are dropped, and no request waits for one.
MOST_WAITING = 8192
#: For one batch, retries included; a router that stops waits no longer.
SEND_SECONDS = 2.0
#: Where a collector takes spans, if its address says no path.
TRACES_PATH = "/v1/traces"
_REASONS = {int(reason): reason.name.lower() for reason in FinishReason}
_PROPAGATOR = TraceContextTextMapPropagator()


class OtelTracing:
    """`Tracing` over the SDK of OpenTelemetry."""

    def __init__(self, exporter: SpanExporter, share: float) -> None:
        # A client's own mark may take a request out, and not in: what is sent here costs here.
        ratio = TraceIdRatioBased(share)
        sampler = ParentBased(ratio, remote_parent_sampled=ratio)
        self._provider = TracerProvider(
            sampler, Resource.create({"service.name": "retally-router"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MOST_WAITING))
        self._tracer = self._provider.get_tracer("retally_router")

    @classmethod
    def over_http(cls, endpoint: str, share: float) -> OtelTracing:
        """Sends spans to an address as OTLP over HTTP; headers by OTEL_EXPORTER_OTLP_HEADERS."""
        if not urlsplit(endpoint).path.strip("/"):
            endpoint = endpoint.rstrip("/") + TRACES_PATH
        return cls(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS), share)

    def begin(self, endpoint: str, headers: Mapping[bytes, bytes], request_id: str) -> RequestSpan:
        """A span of a request, below its client's if that names one."""
        operation = OPERATIONS.get(endpoint, endpoint)
        span = self._tracer.start_span(
            operation,
            _parent(headers),
            SpanKind.SERVER,
            {"gen_ai.operation.name": operation, "gen_ai.provider.name": "retally", "retally.request_id": request_id},
        )
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, context.Context()))
        TRACEPARENT.set(carrier.get("traceparent", ""))
        if span.is_recording():
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
        return OtelSpan(span, operation)

    async def start(self) -> None:
        """The exporter connects when it has something to send."""

    async def close(self) -> None:
        """Sends what waits, as long as the collector takes it."""
        await asyncio.to_thread(self._provider.shutdown)


class OtelSpan:
    """`RequestSpan` around one of OpenTelemetry's."""

    def __init__(self, span: Span, operation: str) -> None:
        self._span = span
        self._operation = operation

    def accepted(self, job: ServeJob) -> None:
        """Model and job are known."""
        model = job.job.ask.model
        self._span.update_name(f"{self._operation} {model}")
        self._span.set_attributes(
            {
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": job.job.ask.output_tokens,
                "gen_ai.request.choice.count": job.job.ask.n,
                "gen_ai.request.stream": job.job.ask.stream,
                "retally.job": to_hex(job.job.job_id),
            }
        )
        self._span.add_event("accepted", {"retally.candidates": len(job.candidates)})

    def refused(self, error: RetallyError) -> None:
        """What the client is told."""
        self._span.set_attribute("error.type", error.code)
        # Not the message: it may quote what the client sent.
        self._span.set_status(StatusCode.ERROR, error.code)

    def ended(self, job: ServeJob) -> None:
        """What came of the job; the time of its first token is looked up now."""
        if not self._span.is_recording():
            return
        if job.first_at is not None:
            ago = time.monotonic() - job.first_at
            self._span.add_event("first token", timestamp=time.time_ns() - round(ago * 1e9))
        reasons = [_REASONS.get(leaf.receipt.finish_reason, "unknown") for leaf in job.receipts]
        self._span.set_attributes(
            {
                "gen_ai.usage.input_tokens": job.prompt_tokens,
                "gen_ai.usage.output_tokens": job.job.ask.counted_tokens(choice.ids for choice in job.choices),
                "gen_ai.response.finish_reasons": reasons,
                "retally.node": job.node,
                "retally.cost": str(job.cost),
                "retally.continuations": job.continuations,
            }
        )

    def close(self, status: int) -> None:
        """The response's status; nothing was sent where it is 499."""
        self._span.set_attribute("http.response.status_code", status)
        self._span.end()


def _parent(headers: Mapping[bytes, bytes]) -> context.Context:
    given = {name: headers[key].decode("latin-1") for key, name in _CARRIED.items() if key in headers}
    # What can't be read as a trace's name is left out by the propagator: the request then begins a trace.
    return _PROPAGATOR.extract(given, context.Context())


_CARRIED = {b"traceparent": "traceparent", b"tracestate": "tracestate"}
