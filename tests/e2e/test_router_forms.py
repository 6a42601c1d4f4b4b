"""The official OpenAI client asks a whole network for JSON and for tool calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from retally.devnet.network import Network
from retally.protocol.receipt import FinishReason, JobReceipt

pytestmark = pytest.mark.engine

QUESTION: list[Any] = [{"role": "user", "content": "What is a lambda?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"topic": {"type": "string", "maxLength": 16}, "kind": {"enum": ["keyword", "class"]}},
    "required": ["topic", "kind"],
    "additionalProperties": False,
}
JSON_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "note", "strict": True, "schema": SCHEMA}}
TOOL: Any = {"type": "function", "function": {"name": "look_up", "description": "Looks up", "parameters": SCHEMA}}


@pytest.fixture
async def client(devnet: Network) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{devnet.router_url}/v1", api_key=devnet.api_key, max_retries=0) as opened:
        yield opened


def receipts_of(answer: Any) -> list[JobReceipt]:
    return [JobReceipt.from_wire(item["receipt"]) for item in answer.model_extra["retally"]["receipts"]]


async def test_json_of_a_schema_in_every_choice(client: openai.AsyncOpenAI, devnet: Network) -> None:
    answer = await client.chat.completions.create(
        model=devnet.model, messages=QUESTION, response_format=JSON_SCHEMA, n=2, max_tokens=96, seed=3
    )
    for choice in answer.choices:
        value = json.loads(choice.message.content or "")
        assert list(value) == ["topic", "kind"]
        assert value["kind"] in ("keyword", "class")
        assert choice.finish_reason == "stop"


async def test_any_json_object_streamed(client: openai.AsyncOpenAI, devnet: Network) -> None:
    stream = await client.chat.completions.create(
        model=devnet.model,
        messages=QUESTION,
        response_format={"type": "json_object"},
        stream=True,
        max_tokens=200,
        temperature=0.6,
        seed=2,
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1]
    assert text.startswith("{")
    assert finish == "length" or isinstance(json.loads(text), dict)


async def test_a_required_call_plain_and_streamed_and_its_result(client: openai.AsyncOpenAI, devnet: Network) -> None:
    asked: dict[str, Any] = {"model": devnet.model, "tools": [TOOL], "tool_choice": "required", "max_tokens": 120}
    asked |= {"parallel_tool_calls": False, "seed": 8}
    plain = await client.chat.completions.create(messages=QUESTION, **asked)
    [call] = plain.choices[0].message.tool_calls or []
    assert plain.choices[0].finish_reason == "tool_calls"
    assert [receipt.finish_reason for receipt in receipts_of(plain)] == [FinishReason.TOOL]
    assert json.loads(call.function.arguments)["kind"] in ("keyword", "class")  # type: ignore[union-attr]
    stream = await client.chat.completions.create(messages=QUESTION, stream=True, **asked)
    deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    [streamed] = [piece for delta in deltas for piece in delta.tool_calls or ()]
    assert (streamed.index, streamed.function.arguments) == (0, call.function.arguments)  # type: ignore[union-attr]
    history = [
        *QUESTION,
        plain.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "A lambda is a small function."},
    ]
    after = await client.chat.completions.create(
        model=devnet.model, messages=history, tools=[TOOL], max_tokens=16
    )  # fmt: skip
    assert (after.usage.prompt_tokens if after.usage else 0) > (plain.usage.prompt_tokens if plain.usage else 0)


async def test_a_named_call(client: openai.AsyncOpenAI, devnet: Network) -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    answer = await client.chat.completions.create(
        model=devnet.model,
        messages=QUESTION,
        tools=[TOOL, other],  # type: ignore[list-item]
        tool_choice={"type": "function", "function": {"name": "other"}},
        max_tokens=60,
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("other", "{}")  # type: ignore[union-attr]


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (schema({"not": {}}), "response_format"),
        (schema({"type": "string", "pattern": "((("}), "response_format"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "gone"}}}, "tool_choice"),
    ],
)
async def test_what_nobody_can_enforce_is_refused(
    client: openai.AsyncOpenAI, devnet: Network, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=devnet.model, messages=QUESTION, **body)
    assert caught.value.param == param
