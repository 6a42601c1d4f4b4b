"""Router, node and client as they are, over HTTP; only engine and chain are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_node import DEPLOYMENT, MODEL_ID, NODE_KEY, OWNER, PROFILE_ID, START, open_world, tiny_format
from tests.fakes_node import World as NodeWorld
from tests.router_world import World, router_world

from retally import AsyncClient, SigningKey, Wallet, result_of
from retally.protocol.eip712 import keccak
from retally_node.api import create_app
from retally_router.ports import RegisteredNode

MODEL = "retally/tiny"
QUESTION: Any = [{"role": "user", "content": "count again"}]


class RealNode:
    """The node's own app, as the router's chain lists it."""

    def __init__(self, world: NodeWorld) -> None:
        self.url = ""
        self.world = world
        self._app = create_app(world.node)

    def registered(self) -> RegisteredNode:
        return RegisteredNode(NODE_KEY.address, OWNER, MODEL_ID, PROFILE_ID, self.url, 10**9, 10**12, True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


@pytest.fixture
async def world(redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    node = await open_world(tmp_path, max_context=4096)
    async with router_world(redis_url, [RealNode(node)], domain=DEPLOYMENT.domain, now=START) as built:
        yield built
    await node.close()


def body(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": QUESTION, "max_tokens": 40, "seed": 4, **changes}


class TestKeyed:
    async def test_streamed_and_plain_agree_and_are_paid(self, world: World) -> None:
        plain = await world.ask(body())
        assert plain.status_code == 200, plain.text
        streamed = await world.ask(body(stream=True))
        assert plain.headers["x-retally-cost"] in streamed.text
        assert await world.settled()
        (account,) = world.router.channels.accounts()
        channel = world.nodes[0].world.node.book.find(account.channel.key)
        assert channel.state().unpaid == 0
        assert channel.state().last_cum_to == account.tiling.closed == 2 * int(plain.headers["x-retally-cost"])

    async def test_parallel_jobs_keep_one_line(self, world: World) -> None:
        answers = await asyncio.gather(*[world.ask(body(seed=seed, n=1 + seed % 3)) for seed in range(16)])
        assert {answer.status_code for answer in answers} == {200}
        assert await world.settled()
        (account,) = world.router.channels.accounts()
        state = world.nodes[0].world.node.book.find(account.channel.key).state()
        assert (state.last_cum_to, state.unpaid, state.open) == (account.tiling.closed, 0, 0)
        assert (account.open, account.tiling.beyond) == ({}, {})

    async def test_client_checks_every_answer(self, world: World, tmp_path: Path) -> None:
        client = AsyncClient(base_url=world.url, api_key=world.api_key, deployment=DEPLOYMENT, home=tmp_path)
        answer = await client.chat.completions.create(**body())
        await client.close()
        checks = result_of(answer).checks.as_dict()
        assert checks
        assert False not in checks.values(), checks

    async def test_over_long_prompt_is_the_nodes_400(self, world: World) -> None:
        answer = await world.ask(body(messages=[{"role": "user", "content": "x" * 5000}]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


class TestOwnKey:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_wallet_signs_pays_and_checks(self, world: World, tmp_path: Path, stream: bool) -> None:
        wallet = Wallet(SigningKey(keccak(b"own key")), DEPLOYMENT.domain, tmp_path)
        render = tiny_format(tmp_path / "render").render
        client = AsyncClient(base_url=world.url, wallet=wallet, home=tmp_path, renderer=render)
        if stream:
            chunks = await client.chat.completions.create(**body(stream=True))
            assert [chunk async for chunk in chunks]
            result = result_of(chunks)
        else:
            result = result_of(await client.chat.completions.create(**body()))
        await client.close()
        assert result.payment_error is None
        checks = result.checks.as_dict()
        assert False not in checks.values(), checks
        (channel,) = [line for line in world.nodes[0].world.node.book.all() if line.id.payer == wallet.payer]
        assert channel.state().unpaid == 0
