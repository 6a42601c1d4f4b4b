"""What a verifier counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retally.chain.clock import Clock
from retally_verifier.audit_commit import suspects_of
from retally_verifier.records import CommitState
from retally_verifier.store import Store


class VerifierMetrics(Collector):
    """Reads the books when asked."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
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
        now = self._clock.now()
        frozen = len(self._store.frozen_pairs(now))
        yield GaugeMetricFamily("retally_verifier_frozen_pairs", "Pairs whose calibration drifted", value=frozen)
        suspect = len(suspects_of(self._store, now))
        yield GaugeMetricFamily("retally_verifier_suspects", "Re-executors that stand alone often", value=suspect)
        yield GaugeMetricFamily("retally_verifier_block", "Last block handled", value=self._store.cursor() or 0)
