"""The routes beside completions: repeatable requests, costs by answer, models, embeddings, the document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import MODEL
from tests.router_world import World, chat, check_error, router_world

from retally_router.api import openapi_text
from retally_router.idempotency import CLAIM_SECONDS
from retally_router.openapi_document import made_document


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url, [FakeNode("a")]) as built:
        yield built


async def repeat(world: World, key: str, body: dict[str, Any] | None = None, path: str = "chat/completions") -> Any:
    headers = {**world.auth, "idempotency-key": key}
    return await world.http.post(f"/v1/{path}", json=body or chat(), headers=headers)


async def until(met: Callable[[], bool]) -> None:
    for _ in range(400):
        if met():
            return
        await asyncio.sleep(0.01)
    assert met()


class TestIdempotency:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_same_body_gets_the_stored_answer_and_costs_once(self, world: World, stream: bool) -> None:
        first = await repeat(world, "k", chat(stream=stream))
        second = await repeat(world, "k", chat(stream=stream))
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.content == second.content
        assert second.headers["idempotent-replayed"] == "true"
        assert second.headers["x-retally-job"] == first.headers["x-retally-job"]
        assert len(world.nodes[0].jobs) == 1

    async def test_holds_for_responses_too(self, world: World) -> None:
        body = {"model": MODEL, "input": "count", "max_output_tokens": 9, "stream": True}
        first, second = await repeat(world, "k", body, "responses"), await repeat(world, "k", body, "responses")
        assert first.text == second.text
        assert len(world.nodes[0].jobs) == 1

    async def test_other_body_under_the_same_key_is_refused(self, world: World) -> None:
        await repeat(world, "k")
        check_error(await repeat(world, "k", chat(seed=9)), 400, "idempotency_key_reused")

    async def test_second_request_in_flight_is_told_to_wait(self, world: World) -> None:
        world.nodes[0].seconds_per_token = 0.02
        first = asyncio.create_task(repeat(world, "k"))
        await until(lambda: bool(world.nodes[0].jobs))
        check_error(await repeat(world, "k"), 409, "idempotency_in_flight")
        assert (await first).status_code == 200
        assert (await repeat(world, "k")).headers["idempotent-replayed"] == "true"

    async def test_client_that_is_lost_finds_its_answer_when_it_asks_again(self, world: World) -> None:
        world.nodes[0].seconds_per_token = 0.02
        headers = {**world.auth, "idempotency-key": "k"}
        with pytest.raises(httpx.ReadTimeout):
            await world.http.post("/v1/chat/completions", json=chat(), headers=headers, timeout=0.15)
        for _ in range(100):
            answer = await repeat(world, "k")
            if answer.status_code != 409:
                break
            await asyncio.sleep(0.05)
        assert answer.status_code == 200
        assert answer.headers["idempotent-replayed"] == "true"
        assert len(world.nodes[0].jobs) == 1

    async def test_errors_are_not_kept(self, world: World) -> None:
        check_error(await repeat(world, "k", chat(model="nobody/has")), 404, "model_not_found")
        assert not [key async for key in world.redis.scan_iter("retally:idempotent:*")]

    async def test_keys_of_two_callers_never_meet(self, world: World) -> None:
        await repeat(world, "k")
        other = await world.create_key(world.payer)
        world.api_key = other["apiKey"]
        assert "idempotent-replayed" not in (await repeat(world, "k")).headers

    async def test_store_alone_shows_no_answer(self, world: World) -> None:
        text = (await repeat(world, "k")).json()["choices"][0]["message"]["content"]
        (key,) = [key async for key in world.redis.scan_iter("retally:idempotent:*")]
        assert text.encode() not in await world.redis.get(key)
        assert await world.redis.ttl(key) > CLAIM_SECONDS

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
    async def test_unfit_keys_are_refused(self, world: World, key: str) -> None:
        assert check_error(await repeat(world, key), 400, "bad_request")["param"] == "Idempotency-Key"

    async def test_without_an_api_key_there_is_nothing_to_repeat(self, world: World) -> None:
        answer = await world.http.post("/v1/chat/completions", json=chat(), headers={"idempotency-key": "k"})
        check_error(answer, 400, "bad_request")


class TestGeneration:
    @pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
    async def test_tells_what_an_answer_cost_by_its_id(self, world: World, path: str) -> None:
        asks = {"completions": {"prompt": "count"}, "responses": {"input": "count"}}
        limit = "max_output_tokens" if path == "responses" else "max_tokens"
        body = {"model": MODEL, limit: 9, **asks.get(path, {"messages": chat()["messages"]})}
        answer = await world.http.post(f"/v1/{path}", json=body, headers=world.auth)
        found = await world.http.get("/v1/generation", params={"id": answer.json()["id"]})
        data = found.json()["data"]
        assert data["total_cost"] == answer.headers["x-retally-cost"]
        assert data["model"] == MODEL
        assert data["tokens_completion"] == sum(
            int(item["receipt"]["outputTo"]) for item in answer.json()["retally"]["receipts"]
        )
        assert data["retally"]["receipts"] == answer.json()["retally"]["receipts"]

    async def test_unknown_and_unfit_ids(self, world: World) -> None:
        unknown = await world.http.get("/v1/generation", params={"id": "chatcmpl-" + "0" * 24})
        check_error(unknown, 404, "not_found")
        check_error(await world.http.get("/v1/generation", params={"id": "../x"}), 400, "bad_request")
        check_error(await world.http.get("/v1/generation"), 400, "bad_request")


class TestModels:
    async def test_official_client_lists_and_retrieves(self, world: World) -> None:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key) as client:
            (model,) = (await client.models.list()).data
            assert (await client.models.retrieve(model.id)).id == MODEL
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("nobody/has")


class TestEmbeddings:
    async def test_says_that_no_node_serves_them(self, world: World) -> None:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError, match="no node serves embeddings") as refused:
                await client.embeddings.create(model=MODEL, input="count")
        assert refused.value.code == "embeddings_not_served"

    async def test_unknown_models_are_named_first(self, world: World) -> None:
        answer = await world.http.post("/v1/embeddings", json={"model": "nobody/has", "input": "x"}, headers=world.auth)
        check_error(answer, 404, "model_not_found")


class TestDocument:
    async def test_every_post_has_a_body_with_an_example_and_every_error_the_envelope(self, world: World) -> None:
        document = (await world.http.get("/openapi.json")).json()
        assert {"/v1/chat/completions", "/v1/completions", "/v1/responses"} <= document["paths"].keys()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorEnvelope"}
                if method == "post":
                    content = operation["requestBody"]["content"]["application/json"]
                    assert content["example"], path
                    assert content["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]

    def test_committed_one_is_what_the_routes_come_to(self) -> None:
        assert json.loads(openapi_text()) == made_document(), "python -m retally_router.openapi_document writes it anew"

    async def test_examples_of_completions_are_served(self, world: World) -> None:
        document = (await world.http.get("/openapi.json")).json()
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
            content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            body = {**content["example"], "model": MODEL}
            answer = await world.http.post(path, json=body, headers=world.auth)
            assert answer.status_code == 200, answer.text

    async def test_wrong_methods_are_told_in_the_envelope(self, world: World) -> None:
        for path in ("/v1/responses", "/v1/chat/completions"):
            check_error(await world.http.get(path), 405, "method_not_allowed")


class TestParameters:
    @pytest.mark.parametrize(
        ("path", "name", "said"),
        [
            ("/v1/generation", "id", "id: Field required"),
            ("/retally/v1/keys", "payer", "payer: Field required"),
            ("/retally/v1/nodes/0x1/channels/0x2/0x3/seven", "lane", "lane: Input should be a valid integer"),
        ],
    )
    async def test_wrong_ones_are_named_in_the_envelope(self, world: World, path: str, name: str, said: str) -> None:
        error = check_error(await world.http.get(path), 400, "bad_request")
        assert (error["param"], error["message"]) == (name, said)
