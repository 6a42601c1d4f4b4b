"""Prometheus metrics, one registry for each app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from retally_router.bounded_labels import BoundedCounter

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What the router counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._served: dict[tuple[str, int], Counter] = {}
        self.requests = Counter(
            "retally_router_requests",
            "Completions by endpoint and status",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.tokens = Counter("retally_router_output_tokens", "Output tokens forwarded", registry=self.registry)
        self.fees = Counter("retally_router_fees", "Fees of receipts, in the asset's unit", registry=self.registry)
        self.in_flight = Gauge("retally_router_in_flight", "Completions in flight", registry=self.registry)
        self.first_frame = Histogram(
            "retally_router_first_frame_seconds", "Request to first frame", buckets=_SECONDS, registry=self.registry
        )
        self.node_failures = BoundedCounter(
            "retally_router_node_failures", "Refusals and failures of nodes", ["node", "code"], registry=self.registry
        )
        self.continuations = Counter(
            "retally_router_continuations", "Streams continued on another node", registry=self.registry
        )
        self.nodes_alive = Gauge("retally_router_nodes_alive", "Nodes that answered lately", registry=self.registry)

    def served(self, endpoint: str, status: int) -> None:
        """Counts a completion."""
        counter = self._served.get((endpoint, status))
        if counter is None:
            counter = self._served[endpoint, status] = self.requests.labels(endpoint=endpoint, status=str(status))
        counter.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
