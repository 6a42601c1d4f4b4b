"""Counters of one node, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from retally_node.channels import ChannelBook
from retally_node.defence import Defence
from retally_node.room import ServingRoom


class Metrics:
    """What /metrics shows."""

    def __init__(self, room: ServingRoom, book: ChannelBook, defence: Defence) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("retally_node_jobs", "Jobs by outcome", ["outcome"], registry=self.registry)
        running = Gauge("retally_node_segments_running", "Segments being decoded", registry=self.registry)
        running.set_function(lambda: room.running)
        waiting = Gauge("retally_node_segments_waiting", "Segments waiting", registry=self.registry)
        waiting.set_function(lambda: room.waiting)
        owed = Gauge("retally_node_uncollected", "Amount not collected yet", registry=self.registry)
        owed.set_function(lambda: book.committed())
        accused = Gauge("retally_node_cases", "Cases against the owner that are not over", registry=self.registry)
        accused.set_function(lambda: len(defence.open_cases))
        lost = Gauge("retally_node_cases_lost", "Of them decided against it, so far", registry=self.registry)
        lost.set_function(lambda: defence.lost_cases)
        appeals = Gauge("retally_node_appeals", "Appeals sent since the start", registry=self.registry)
        appeals.set_function(lambda: defence.appeals)
