"""Embeddings through the router: the stock client, money, refusals, and our client's checks."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tests.fakes import FakeEmbedder
from tests.fakes_node import (
    DEPLOYMENT,
    START,
    VECTOR_SIZE,
    tiny_format,
)
from tests.fakes_node import World as NodeWorld
from tests.router_world import World, check_error, router_world
from tests.unit.test_router_repeated import seen
from tests.unit.test_router_with_node import RealNode

from retally import AsyncClient, SigningKey, Wallet, result_of
from retally.protocol.eip712 import keccak
from retally.protocol.pricing import PER
from retally.protocol.receipt import FinishReason, JobReceipt

MODEL = "retally/tiny"
TEXTS = ["count", "count again"]


@pytest.fixture
async def world(redis_url: str, embedder: NodeWorld) -> AsyncIterator[World]:
    async with router_world(redis_url, [RealNode(embedder)], domain=DEPLOYMENT.domain, now=START) as built:
        yield built


async def ask(world: World, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    body = {"model": MODEL, "input": TEXTS, **changes}
    return await world.http.post("/v1/embeddings", json=body, headers={**world.auth, **(headers or {})})


class TestStockClient:
    @pytest.mark.parametrize("encoding", ["float", "base64", None])
    async def test_gets_the_engines_own_bits(self, world: World, encoding: str | None) -> None:
        chosen: Any = {} if encoding is None else {"encoding_format": encoding}
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key) as client:
            answer = await client.embeddings.create(model=MODEL, input=TEXTS, **chosen)
        wanted = await FakeEmbedder().embed(_ids(world), VECTOR_SIZE)
        # Asked for text, the client hands out text; asked for nothing, it asks for text and reads it.
        got = [np.frombuffer(b64decode(row), "<f4") if isinstance(row, str) else row for row in _rows(answer)]
        assert np.array_equal(np.array(got, dtype=np.float32), wanted)
        assert [row.index for row in answer.data] == [0, 1]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS))

    async def test_cuts_vectors_where_the_model_may_be_cut(self, world: World) -> None:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key) as client:
            answer = await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=4)
            assert [len(row.embedding) for row in answer.data] == [4, 4]
            with pytest.raises(openai.BadRequestError, match="dimensions"):
                await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=5)

    async def test_token_ids_are_taken_as_they_are(self, world: World) -> None:
        texts = await ask(world, input=TEXTS[:1])
        ids = await ask(world, input=_ids(world)[0])
        assert texts.json()["data"] == ids.json()["data"]
        assert texts.json()["usage"] == ids.json()["usage"]


def _rows(answer: Any) -> list[Any]:
    return [row.embedding for row in answer.data]


def _ids(world: World) -> list[list[int]]:
    return list(world.nodes[0].world.node.chat_format.render_inputs({"inputs": TEXTS}))


class TestMoney:
    async def test_bills_the_input_alone_and_leaves_nothing_owed(self, world: World) -> None:
        answer = await ask(world)
        assert answer.status_code == 200, answer.text
        receipt = JobReceipt.from_wire(answer.json()["retally"]["receipts"][0]["receipt"])
        assert int(answer.headers["x-retally-cost"]) == receipt.fee == sum(map(len, TEXTS)) * 2_000_000 // PER
        assert (receipt.output_from, receipt.output_to) == (0, 2 * VECTOR_SIZE)
        assert receipt.finish_reason == FinishReason.STOP
        assert await world.settled()
        (account,) = world.router.channels.accounts()
        channel = world.nodes[0].world.node.book.find(account.channel.key)
        assert (channel.state().last_cum_to, channel.state().unpaid) == (receipt.fee, 0)

    async def test_tells_what_it_cost_by_the_answers_id(self, world: World) -> None:
        answer = await ask(world)
        found = await world.http.get("/v1/generation", params={"id": answer.json()["id"]})
        data = found.json()["data"]
        assert data["total_cost"] == answer.headers["x-retally-cost"]
        assert (data["tokens_prompt"], data["tokens_completion"]) == (sum(map(len, TEXTS)), 0)

    async def test_is_made_once_under_an_idempotency_key(self, world: World) -> None:
        once = {"idempotency-key": "vectors"}
        first, again = await ask(world, once), await ask(world, once)
        assert again.headers["idempotent-replayed"] == "true"
        assert first.content == again.content
        assert world.nodes[0].world.engine.embedded == len(TEXTS)

    async def test_what_a_router_left_when_it_died_is_shown_and_not_made_again(
        self, world: World, embedder: NodeWorld
    ) -> None:
        once, engine = {"idempotency-key": "vectors"}, embedder.engine
        assert isinstance(engine, FakeEmbedder)
        engine.delay_seconds = 0.3
        first = asyncio.create_task(ask(world, once))
        left = await seen(world)
        answer = await first
        assert await world.settled()
        async for place in world.redis.scan_iter("retally:idempotent:*"):
            await world.redis.delete(place)
        await world.redis.set(*left)
        engine.factor = 2.0
        again = await ask(world, once)
        assert again.json()["data"] == answer.json()["data"]
        assert again.json()["retally"]["receipts"] == answer.json()["retally"]["receipts"]
        assert engine.embedded == len(TEXTS)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"input": []}, "input"),
            ({"encoding_format": "int8"}, "encoding_format"),
            ({"temperature": 1}, "temperature"),
            ({"provider": {"audit": True}}, "provider"),
            ({"provider": {"require": ["audited"]}}, "provider"),
        ],
    )
    async def test_says_what_is_wrong(self, world: World, change: dict[str, Any], param: str) -> None:
        answer = await ask(world, **change)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param

    async def test_too_long_an_input_is_the_nodes_400(self, world: World) -> None:
        check_error(await ask(world, input=["x" * 65]), 400, "context_length_exceeded")

    async def test_many_inputs_may_together_exceed_the_context(self, world: World) -> None:
        answer = await ask(world, input=["x" * 60, "y" * 60])
        assert answer.status_code == 200, answer.text

    async def test_completions_never_go_to_a_node_for_embeddings(self, world: World) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "count"}], "max_tokens": 4}
        answer = await world.http.post("/v1/chat/completions", json=body, headers=world.auth)
        assert "hint" in check_error(answer, 404, "completions_not_served")

    async def test_an_engine_that_fails_bills_nothing(self, world: World) -> None:
        world.nodes[0].world.engine.fails_after = 0
        answer = await ask(world)
        assert answer.status_code == 503
        assert await world.settled()
        (account,) = world.router.channels.accounts()
        assert account.tiling.closed == 0

    @pytest.mark.parametrize("broken", [{"missing": 1}, {"factor": float("nan")}])
    async def test_a_node_that_signs_other_than_whole_vectors_is_shut_out(
        self, world: World, embedder: NodeWorld, broken: dict[str, Any]
    ) -> None:
        for name, value in broken.items():
            setattr(embedder.engine, name, value)
        answer = await ask(world)
        assert answer.status_code == 503
        assert "R-7" in answer.json()["error"]["message"]
        (fault,) = (await world.http.get("/retally/v1/faults")).json()["faults"]
        assert "R-7" in json.dumps(fault)

    async def test_models_say_what_they_serve(self, world: World) -> None:
        (model,) = (await world.http.get("/v1/models")).json()["data"]
        assert model["retally"]["endpoints"] == ["embeddings"]
        assert model["retally"]["embeddings"]["dimensions"] == VECTOR_SIZE
        assert model["retally"]["audited"] is False
        (listed,) = (await world.http.get("/retally/v1/nodes")).json()["nodes"]
        assert (listed["endpoints"], listed["audited"], listed["routable"]) == (["embeddings"], False, True)


class TestClient:
    async def test_checks_the_vectors_against_the_receipt(self, world: World, tmp_path: Path) -> None:
        render = tiny_format(tmp_path / "render").render
        options: Any = {"deployment": DEPLOYMENT, "home": tmp_path, "renderer": render}
        async with AsyncClient(base_url=world.url, api_key=world.api_key, **options) as client:
            result = result_of(await client.embeddings.create(model=MODEL, input=TEXTS))
        assert result.checks.complete
        assert result.checks.passed, result.checks.failures
        assert (result.cost, result.output_tokens) == (result.receipts[0].receipt.fee, 0)

    async def test_sees_a_component_that_is_not_the_signed_one(self, world: World, tmp_path: Path) -> None:
        async with AsyncClient(base_url=world.url, api_key=world.api_key, home=tmp_path) as client:
            result = result_of(await client.embeddings.create(model=MODEL, input=TEXTS))
        result.evidence.ids[0][3] ^= 1
        result._checks = None
        assert [failure.name for failure in result.checks.failures] == ["output_root"]

    async def test_a_wallet_signs_pays_and_checks(self, world: World, tmp_path: Path) -> None:
        wallet = Wallet(SigningKey(keccak(b"own key")), DEPLOYMENT.domain, tmp_path)
        render = tiny_format(tmp_path / "render").render
        async with AsyncClient(base_url=world.url, wallet=wallet, home=tmp_path, renderer=render) as client:
            result = result_of(await client.embeddings.create(model=MODEL, input=TEXTS))
        assert result.payment_error is None
        assert result.checks.passed, result.checks.failures
        assert result.evidence.request is not None
        assert not result.evidence.request.audit_consent
        (channel,) = [line for line in world.nodes[0].world.node.book.all() if line.id.payer == wallet.payer]
        assert channel.state().unpaid == 0
