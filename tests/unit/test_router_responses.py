"""POST /v1/responses: OpenAI's Responses over the same jobs, as the official client sees them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL
from tests.router_world import World, check_error, router_world

from retally.protocol.eip712 import check_signed_by
from retally.protocol.receipt import JobReceipt

ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url) as built:
        yield built


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key, max_retries=0) as made:
        yield made


def ask(**changes: Any) -> dict[str, Any]:
    """An ordinary request."""
    return {"model": MODEL, "input": "count again and again", "max_output_tokens": 20, **changes}


async def post(world: World, **changes: Any) -> Any:
    return await world.http.post("/v1/responses", json=ask(**changes), headers=world.auth)


class TestPlain:
    async def test_official_client_gets_a_response_object(self, client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(**ask(instructions="use digits", extra_body={"seed": 1}))
        assert response.output_text.startswith("w")
        assert response.status in ("completed", "incomplete")
        assert response.instructions == "use digits"
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        assert response.store is False

    async def test_cut_answer_is_incomplete_and_says_why(self, client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(**ask(max_output_tokens=2))
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"

    async def test_says_what_chat_says_to_the_same_messages(self, world: World) -> None:
        said = {"role": "assistant", "content": [{"type": "output_text", "text": "one", "annotations": []}]}
        items = [
            {"role": "user", "content": "count"},
            {**said, "id": "msg_1", "type": "message", "status": "completed"},
        ]
        items.append({"role": "user", "content": [{"type": "input_text", "text": "again"}]})
        response = (await post(world, input=items, seed=7)).json()
        messages = [("user", "count"), ("assistant", "one"), ("user", "again")]
        chat = await world.ask(messages=[{"role": role, "content": text} for role, text in messages], seed=7)
        assert response["output"][0]["content"][0]["text"] == chat.json()["choices"][0]["message"]["content"]
        assert response["retally"]["cost"] == chat.json()["retally"]["cost"]

    async def test_next_turn_may_repeat_the_output_items(self, client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(**ask())
        again = [{"role": "user", "content": "count"}, *[item.model_dump() for item in first.output]]
        second = await client.responses.create(**ask(input=[*again, {"role": "user", "content": "go on"}]))
        assert second.output_text


class TestStream:
    async def test_official_client_sees_the_events_in_their_order(self, client: openai.AsyncOpenAI) -> None:
        events = [event async for event in await client.responses.create(**ask(stream=True, extra_body={"seed": 1}))]
        kinds = list(dict.fromkeys(event.type for event in events))
        assert kinds[:-1] == ORDER
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last = events[-1]
        assert last.type in ("response.completed", "response.incomplete")
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        plain = await client.responses.create(**ask(extra_body={"seed": 1}))
        assert deltas == last.response.output_text == plain.output_text
        assert last.response.usage == plain.usage

    async def test_final_event_carries_the_signed_receipt(self, world: World) -> None:
        answer = await post(world, stream=True)
        final = json.loads(answer.text.rstrip().rpartition("data: ")[2])["response"]["retally"]
        (signed,) = final["receipts"]
        receipt = JobReceipt.from_wire(signed["receipt"])
        check_signed_by(receipt.digest(DOMAIN), bytes.fromhex(signed["signature"][2:]), receipt.node)
        assert final["cost"] == str(receipt.fee)

    async def test_stream_that_breaks_off_says_error_and_failed(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a", die_after=5)]) as world:
            text = (await post(world, stream=True)).text
            events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
            assert events[-2:] == ["error", "response.failed"]
            failed = json.loads(text.rstrip().rpartition("data: ")[2])["response"]
            assert failed["status"] == "failed"
            assert failed["error"]["message"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("store", True),
            ("previous_response_id", "resp_1"),
            ("conversation", "conv_1"),
            ("prompt", {"id": "pmpt_1"}),
            ("background", True),
            ("tools", [{"type": "web_search"}]),
            ("include", ["message.output_text.logprobs"]),
            ("reasoning", {"effort": "high"}),
            ("truncation", "auto"),
            ("colour", "blue"),
        ],
    )
    async def test_what_is_not_served_is_named(self, world: World, name: str, value: object) -> None:
        error = check_error(await post(world, **{name: value}), 400, "unsupported_parameter")
        assert error["param"] == name

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"input": []}, "input"),
            ({"input": 5}, "input"),
            ({"input": [5]}, "input[0]"),
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
            ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
            ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"instructions": 5}, "instructions"),
            ({"text": {"format": {"type": "json_object"}, "verbosity": "high"}}, "text.verbosity"),
        ],
    )
    async def test_errors_name_the_fields_of_this_route(self, world: World, change: dict[str, Any], param: str) -> None:
        answer = await post(world, **change)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param

    async def test_key_and_money_are_asked_for_here_too(self, world: World) -> None:
        check_error(await world.http.post("/v1/responses", json=ask()), 401, "missing_api_key")
        world.chain.fund(world.payer.address, balance=1)
        world.clock.time += 1
        answer = await world.create_key(world.payer, fund=1)
        headers = {"authorization": f"Bearer {answer['apiKey']}"}
        check_error(await world.http.post("/v1/responses", json=ask(), headers=headers), 402, "insufficient_funds")

    async def test_every_answer_has_its_request_id_once(self, world: World) -> None:
        for changes in ({}, {"stream": True}, {"input": 5}):
            assert len((await post(world, **changes)).headers.get_list("x-request-id")) == 1

    async def test_broken_json_is_refused_in_the_envelope(self, world: World) -> None:
        answer = await world.http.post("/v1/responses", content=b"{", headers=world.auth)
        check_error(answer, 400, "invalid_json")
