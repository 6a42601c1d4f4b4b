"""Spans of requests as a collector receives them: real exporter, real bytes, and no collector, no cost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.fakes_router import FakeNode, send_json
from tests.fakes_world import MODEL, served
from tests.router_world import World, chat, router_world, settings_of

from retally.errors import BadRequest
from retally_router.bootstrap import tracing_of
from retally_router.tracing import Untraced

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Collector:
    """Takes spans as any collector does, or fails."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[Any] = []
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.paths.append(scope["path"])
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scoped in resource.scope_spans:
                self.spans += scoped.spans
        await send_json(send, {}, self.status)


class Listening(FakeNode):
    """Keeps which trace it is told to belong to."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").endswith("/jobs"):
            self.told = dict(scope["headers"]).get(b"traceparent", b"").decode()
        await super().__call__(scope, receive, send)


@asynccontextmanager
async def traced(redis_url: str, collector: Collector, *nodes: FakeNode, **changes: Any) -> AsyncIterator[World]:
    async with served(collector) as url, router_world(redis_url, nodes, otlp_endpoint=url, **changes) as world:
        yield world


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes, as plain values."""
    found = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        value = getattr(item.value, kind)
        found[item.key] = [each.string_value for each in value.values] if kind == "array_value" else value
    return found


class TestSpans:
    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_tell_a_job_below_its_clients_span(self, redis_url: str, server: str) -> None:
        collector, node = Collector(), Listening("a")
        async with traced(redis_url, collector, node, server=server) as world:
            world.http.headers["traceparent"] = SAMPLED
            answer = await world.ask(stream=True)
            assert answer.status_code == 200
            job = answer.headers["x-retally-job"]
        [span] = collector.spans
        assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (f"chat {MODEL}", TRACE, PARENT)
        told = attributes(span)
        assert (told["gen_ai.request.model"], told["retally.job"]) == (MODEL, job)
        assert (told["retally.node"], told["http.response.status_code"]) == (node.address, 200)
        assert told["gen_ai.usage.output_tokens"] == 20
        assert told["gen_ai.response.finish_reasons"] == ["length"]
        assert int(told["retally.cost"]) > 0
        assert [event.name for event in span.events] == ["accepted", "first token"]
        assert span.start_time_unix_nano <= span.events[1].time_unix_nano <= span.end_time_unix_nano
        # The node hears of the same trace, under the router's span.
        assert node.told == f"00-{TRACE}-{span.span_id.hex()}-01"
        assert collector.paths == ["/v1/traces"]

    async def test_tell_what_was_refused_and_no_word_of_it(self, redis_url: str) -> None:
        collector = Collector()
        async with traced(redis_url, collector, FakeNode("a")) as world:
            await world.ask(model="nobody/has", messages=[{"role": "user", "content": "a secret"}])
            quoted = await world.ask({"a secret": 1})
            assert "a secret" in quoted.text
            await world.ask(messages=[{"role": "user", "content": "a secret"}])
        refused, told, served_one = collector.spans
        assert attributes(told)["error.type"]
        assert attributes(refused)["error.type"] == "model_not_found"
        assert (refused.status.code, attributes(refused)["http.response.status_code"]) == (2, 404)
        assert "error.type" not in attributes(served_one)
        assert b"secret" not in b"".join(span.SerializeToString() for span in collector.spans)

    async def test_name_the_node_that_went_on_and_how_often(self, redis_url: str) -> None:
        collector, nodes = Collector(), [FakeNode("a", die_after=3), FakeNode("b")]
        async with traced(redis_url, collector, *nodes) as world:
            order = {"order": [node.address for node in nodes]}
            assert (await world.ask(stream=True, provider=order)).status_code == 200
        told = attributes(collector.spans[0])
        assert (told["retally.continuations"], told["retally.node"]) == (1, nodes[1].address)

    @pytest.mark.parametrize("given", ["", "00-zz-zz-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\xff" * 40])
    async def test_begin_a_trace_where_the_client_names_none(self, redis_url: str, given: str) -> None:
        collector = Collector()
        async with traced(redis_url, collector, FakeNode("a")) as world:
            authorization = f"Bearer {world.api_key}".encode()
            headers = [(b"authorization", authorization), (b"traceparent", given.encode("latin-1"))]
            assert (await world.http.post("/v1/chat/completions", json=chat(), headers=headers)).status_code == 200
        [span] = collector.spans
        assert span.parent_span_id == b""
        assert span.trace_id.hex() not in (TRACE, "0" * 32)

    async def test_a_client_takes_its_request_out_and_none_in(self, redis_url: str) -> None:
        collector = Collector()
        async with traced(redis_url, collector, FakeNode("a")) as world:
            world.http.headers["traceparent"] = UNSAMPLED
            assert (await world.ask()).status_code == 200
        async with traced(redis_url, collector, FakeNode("a"), trace_share=0.0) as world:
            world.http.headers["traceparent"] = SAMPLED
            assert (await world.ask()).status_code == 200
        assert collector.spans == []


class TestCollector:
    async def test_one_that_fails_harms_no_request(self, redis_url: str) -> None:
        async with traced(redis_url, Collector(500), FakeNode("a")) as world:
            answers = await asyncio.gather(*(world.ask() for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}

    async def test_one_that_is_not_there_harms_no_request(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")], otlp_endpoint="http://127.0.0.1:9") as world:
            assert (await world.ask()).status_code == 200

    def test_without_one_nothing_of_it_is_loaded(self) -> None:
        # redis-py loads a part of OpenTelemetry by itself where it is installed.
        ours = "('retally_router.otel', 'opentelemetry.exporter', 'opentelemetry.sdk.trace')"
        script = f"import sys, retally_router.bootstrap; print([m for m in sys.modules if m.startswith({ours})])"
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert printed.stdout.strip() == "[]"

    def test_without_the_library_it_says_what_to_install(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(tracing_of(settings_of(redis_url)), Untraced)
        monkeypatch.setitem(sys.modules, "retally_router.otel", None)
        with pytest.raises(BadRequest, match="not installed") as raised:
            tracing_of(settings_of(redis_url, otlp_endpoint="http://collector:4318"))
        assert "retally[otel]" in (raised.value.hint or "")
