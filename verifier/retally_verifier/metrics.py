"""What a verifier counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retally_verifier.records import CommitState
from retally_verifier.store import Store


class VerifierMetrics(Collector):
    """Reads the books when asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The gauges of a scrape."""
        commits = GaugeMetricFamily("retally_verifier_commits", "Commits by audit state", labels=["state"])
        for state in CommitState:
            commits.add_metric([state.value], len(self._store.commits(state)))
        yield commits
        cases = self._store.cases()
        opened = GaugeMetricFamily("retally_verifier_cases_open", "Cases under way", value=0)
        opened.samples.clear()
        opened.add_metric([], sum(not case.closed for case in cases))
        yield opened
        yield GaugeMetricFamily("retally_verifier_block", "Last block handled", value=self._store.cursor() or 0)
