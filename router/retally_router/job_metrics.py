"""What operators see of jobs: by model, node and outcome, with as many labels as are named here and no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram

from retally.errors import RetallyError
from retally_router.bounded_labels import BoundedCounter, bounded
from retally_router.channel_state import ChannelAccount
from retally_router.serve_job import ServeJob

_TTFT = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_GAPS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.5, 2)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5)


class JobMetrics:
    """Counts jobs as they are taken, end or are refused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["model", "node", "outcome"]
        self._jobs = BoundedCounter("retally_router_jobs", "Jobs by outcome: whole, broken", labels, registry=registry)
        self._refusals = BoundedCounter("retally_router_refusals", "Errors told, by code", ["code"], registry=registry)
        self._ttft = self._timer("ttft", "Request to first token, by model", _TTFT, registry, ["model"])
        self._gaps = self._timer("inter_token", "Between an answer's tokens, by model", _GAPS, registry, ["model"])
        self._overhead = self._timer("overhead", "The router's own time before a node is asked", _OVERHEAD, registry)
        self._prepaid = Gauge(
            "retally_router_prepaid", "Promised beyond receipts, in the asset's unit", registry=registry
        )
        self._owed = Gauge("retally_router_owed", "Due and not yet vouched, in the asset's unit", registry=registry)
        self._open = Gauge("retally_router_open_segments", "Segments without a receipt", registry=registry)

    def watch(self, accounts: Callable[[], Iterable[ChannelAccount]]) -> None:
        """Reads the channels whenever somebody scrapes."""
        self._prepaid.set_function(lambda: sum(max(0, item.promised - item.tiling.closed) for item in accounts()))
        self._owed.set_function(lambda: sum(max(0, item.wanted - item.delivered) for item in accounts()))
        self._open.set_function(lambda: sum(len(item.open) for item in accounts()))

    def accepted(self, seconds: float) -> None:
        """A request was understood, paid for and given its nodes."""
        self._overhead.observe(seconds)

    def refused(self, error: RetallyError) -> None:
        """A client was told an error."""
        self._refusals.labels(code=error.code).inc()

    def ended(self, job: ServeJob, began: float) -> None:
        """A job ended, one way or the other; what it came to stands in the request's log line too."""
        model = bounded(self._ttft, "model", job.job.ask.model)
        whole = all(choice.ended for choice in job.choices) and bool(job.choices)
        self._jobs.labels(model=model, node=job.node or "none", outcome="whole" if whole else "broken").inc()
        tokens = job.job.ask.counted_tokens(choice.ids for choice in job.choices)
        if job.first_at is not None:
            self._ttft.labels(model=model).observe(job.first_at - began)
            gaps = tokens // len(job.choices) - 1
            if gaps > 0:
                self._gaps.labels(model=model).observe((time.monotonic() - job.first_at) / gaps)
        structlog.contextvars.bind_contextvars(node=job.node, model=model, tokens=tokens, cost=job.cost)

    def _timer(
        self, name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry, labels: Iterable[str] = ()
    ) -> Histogram:
        return Histogram(f"retally_router_{name}_seconds", text, list(labels), buckets=buckets, registry=registry)
