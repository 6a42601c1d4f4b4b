"""What operators see: metrics with few labels, a dashboard that names them, log lines that tell a request."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import LogCapture
from tests.fakes_router import FakeNode
from tests.fakes_world import MODEL
from tests.router_world import World, router_world

from retally_router.bounded_labels import MOST_VALUES, BoundedCounter

DASHBOARD = Path(__file__).parents[2] / "deployments" / "grafana" / "router.json"
NAME = re.compile(r"retally_router_\w+")


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url, [FakeNode("a")]) as built:
        yield built


async def samples(world: World) -> dict[str, float]:
    """All samples, by name and labels."""
    text = (await world.http.get("/metrics")).text
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestMetrics:
    async def test_tell_a_job_by_model_node_and_outcome_and_its_times(self, world: World) -> None:
        assert (await world.ask()).status_code == 200
        await world.ask(model="nobody/has")
        await world.settled()
        found = await samples(world)
        labels = json.dumps({"model": MODEL, "node": world.nodes[0].address, "outcome": "whole"}, sort_keys=True)
        assert found[f"retally_router_jobs_total{labels}"] == 1
        assert found['retally_router_refusals_total{"code": "model_not_found"}'] == 1
        for name in ("ttft", "inter_token"):
            assert found[f'retally_router_{name}_seconds_count{{"model": "{MODEL}"}}'] == 1
        assert found["retally_router_overhead_seconds_count{}"] == 1
        assert found["retally_router_owed{}"] == 0
        assert found["retally_router_prepaid{}"] >= 0

    async def test_broken_answers_are_told_apart(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a", die_after=3)]) as world:
            await world.ask(stream=True)
            found = await samples(world)
            assert [name for name in found if name.startswith("retally_router_jobs_total") and "broken" in name]

    def test_a_label_takes_so_many_values_and_no_more(self) -> None:
        counter = BoundedCounter("c", "c", ["code"], registry=CollectorRegistry())
        for number in range(MOST_VALUES + 50):
            counter.labels(code=str(number)).inc()
        assert (
            len({sample.labels["code"] for metric in counter.collect() for sample in metric.samples}) == MOST_VALUES + 1
        )


class TestDashboard:
    async def test_names_every_metric_there_is_and_no_other(self, world: World) -> None:
        await world.ask()
        await world.ask(model="nobody/has")
        text = (await world.http.get("/metrics")).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        named = set(NAME.findall(DASHBOARD.read_text()))
        shown = {name.removesuffix("_bucket").removesuffix("_total") for name in named}
        assert shown == {
            name for name in families if name.startswith("retally_router_") and not name.endswith("_created")
        }

    def test_every_panel_asks_the_chosen_data_source(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])


class TestLogs:
    async def test_a_requests_line_tells_its_id_model_node_tokens_and_cost(self, world: World) -> None:
        capture = LogCapture()
        before = structlog.get_config()
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, capture], cache_logger_on_first_use=False
        )
        try:
            answer = await world.ask()
            # The line comes after the answer's last byte.
            for _ in range(100):
                if any(entry["event"] == "request" for entry in capture.entries):
                    break
                await asyncio.sleep(0.01)
        finally:
            structlog.configure(**before)
        (line,) = [entry for entry in capture.entries if entry["event"] == "request"]
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["cost"] == int(answer.headers["x-retally-cost"])
        assert (line["model"], line["node"]) == (MODEL, world.nodes[0].address)
        assert line["tokens"] == answer.json()["usage"]["completion_tokens"]
