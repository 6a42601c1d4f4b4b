"""Answers of a given form over the node's real HTTP interface: JSON, tool calls, and what is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes_node import Customer, World, open_world
from tests.unit.test_node_serving import frames_of, listening, text_of

from retally.protocol.openai_request import params_of_body, prompt_of_body
from retally.protocol.receipt import FinishReason, JobReceipt
from retally.protocol.wire import JobSubmission

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["module", "class"]}, "old": {"type": "boolean"}, "n": {"enum": [1, 2, 3]}},
    "required": ["kind", "old", "n"],
}
JSON: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "describe", "parameters": SCHEMA}}]}
CALL = {**TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
TOKENS = 120


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Loaded beforehand: on a busy machine that takes longer than a customer waits."""
    importlib.import_module("xgrammar")


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


async def asked(customer: Customer, world: World, *, stream: bool = False, **body: Any) -> JobSubmission:
    whole = {"messages": [{"role": "user", "content": "Go"}], "max_tokens": TOKENS, **body}
    params = params_of_body(whole, "chat", TOKENS, "2026-11-21")
    return await customer.submission(
        world.node, prompt=prompt_of_body(whole, "chat"), params=params, stream=stream, n=whole.get("n", 1)
    )


async def post(client: httpx.AsyncClient, submission: JobSubmission) -> httpx.Response:
    return await client.post("/retally/v1/jobs", json=submission.to_wire())


def ids_of(frames: list[dict[str, Any]]) -> list[int]:
    return [token for frame in frames for token in frame["retally"].get("ids", ())]


def calls_of(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deltas = [choice["delta"] for frame in frames for choice in frame.get("choices", ())]
    return [call for delta in deltas for call in delta.get("tool_calls", ())]


def check_fits(value: dict[str, Any]) -> None:
    assert list(value) == ["kind", "old", "n"]
    assert value["kind"] in ("module", "class")
    assert value["old"] in (True, False)
    assert value["n"] in (1, 2, 3)


class TestJson:
    async def test_plain_streamed_and_every_choice_fit_the_schema(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            plain = (await post(client, await asked(customer, world, n=2, **JSON))).json()
            frames = frames_of((await post(client, await asked(customer, world, n=2, stream=True, **JSON))).text)
        texts = [choice["message"]["content"] for choice in plain["choices"]]
        assert [text_of(frames, choice) for choice in range(2)] == texts
        for text, choice in zip(texts, plain["choices"], strict=True):
            check_fits(json.loads(text))
            assert choice["finish_reason"] == "stop"

    async def test_a_continuation_keeps_to_the_form(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            whole = frames_of((await post(client, await asked(customer, world, stream=True, **JSON))).text)
            ids = ids_of(whole)
            for cut in (1, 9, len(ids) - 2):
                submission = await asked(customer, world, stream=True, **JSON)
                moved = submission.to_wire()
                offer = (await world.node.offers.current()).offer
                moved["assignments"] = [customer.assign(submission.request, offer, ids[:cut]).to_wire()]
                rest = frames_of((await client.post("/retally/v1/jobs", json=moved)).text)
                assert ids_of(rest) == ids[cut:]
                assert text_of(whole).endswith(text_of(rest))


class TestTools:
    async def test_a_required_call_is_the_answer(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            plain = (await post(client, await asked(customer, world, **CALL))).json()
            frames = frames_of((await post(client, await asked(customer, world, stream=True, **CALL))).text)
        [choice] = plain["choices"]
        [call] = choice["message"]["tool_calls"]
        assert choice["message"]["content"] is None
        assert choice["finish_reason"] == "tool_calls"
        assert call["function"]["name"] == "describe"
        check_fits(json.loads(call["function"]["arguments"]))
        [streamed] = calls_of(frames)
        assert streamed["function"] == call["function"]
        assert streamed["index"] == 0
        assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert text_of(frames) == ""
        receipt = JobReceipt.from_wire(frames[-1]["retally"]["receipt"])
        assert receipt.finish_reason == FinishReason.TOOL

    async def test_asked_again_it_is_the_same_call(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            submission = await asked(customer, world, **CALL)
            first, again = [(await post(client, submission)).json() for _ in range(2)]
        assert again["choices"][0]["message"] == first["choices"][0]["message"]

    async def test_a_continuation_within_a_call_shows_it_once(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            submission = await asked(customer, world, stream=True, **CALL)
            whole = frames_of((await post(client, submission)).text)
            ids = ids_of(whole)
            again = await asked(customer, world, stream=True, **CALL)
            moved = again.to_wire()
            offer = (await world.node.offers.current()).offer
            moved["assignments"] = [customer.assign(again.request, offer, ids[: len(ids) // 2]).to_wire()]
            rest = frames_of((await client.post("/retally/v1/jobs", json=moved)).text)
        assert ids_of(rest) == ids[len(ids) // 2 :]
        [one], [other] = calls_of(whole), calls_of(rest)
        assert one["function"] == other["function"]

    async def test_text_that_only_looks_like_a_call_is_text(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            plain = (await post(client, await asked(customer, world, max_tokens=24, **TOOLS))).json()
        assert "tool_calls" not in plain["choices"][0]["message"]


class TestRefused:
    async def test_a_schema_that_the_library_refuses_costs_nothing(self, world: World) -> None:
        broken = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/$defs/gone"}}}
        async with listening(world) as client:
            answer = await post(client, await asked(Customer(), world, response_format=broken))
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "unsupported_schema"
        assert world.engine.produced == 0

    async def test_tools_that_do_not_fit_the_params(self, world: World) -> None:
        customer = Customer()
        prompt = prompt_of_body({"messages": [{"role": "user", "content": "Go"}], **TOOLS}, "chat")
        async with listening(world) as client:
            answer = await post(client, await customer.submission(world.node, prompt=prompt))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "toolChoice"

    async def test_tools_that_the_template_does_not_know(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path)
        world.node.chat_format.has_tools = False
        async with listening(world) as client:
            answer = await post(client, await asked(Customer(), world, **TOOLS))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "tools"
