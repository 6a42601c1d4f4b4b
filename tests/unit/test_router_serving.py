"""The router with nodes that sign for real: answers, money, retries, continuation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL
from tests.router_world import World, chat, router_world

from retally.errors import ChainUnreachable, EngineUnavailable, InsufficientFunds
from retally.protocol.eip712 import check_signed_by
from retally.protocol.receipt import JobReceipt


@pytest.fixture(params=["asgi", "native"])
async def world(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with router_world(redis_url, server=request.param) as built:
        yield built


def frames_of(text: str) -> list[dict[str, Any]]:
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def content_of(frames: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content", "") for frame in frames for c in frame["choices"])


class TestAnswer:
    async def test_plain_answer_is_openais_object_with_receipts(self, world: World) -> None:
        answer = await world.ask()
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"].startswith("w")
        signed = body["retally"]["receipts"][0]
        receipt = JobReceipt.from_wire(signed["receipt"])
        check_signed_by(receipt.digest(DOMAIN), bytes.fromhex(signed["signature"][2:]), receipt.node)
        assert body["retally"]["cost"] == str(receipt.fee) == answer.headers["x-retally-cost"]
        assert answer.headers["x-retally-job"] == body["retally"]["jobId"]
        assert body["usage"]["completion_tokens"] == receipt.output_tokens

    async def test_streamed_and_plain_agree_on_text_and_cost(self, world: World) -> None:
        plain = (await world.ask()).json()
        frames = frames_of((await world.ask(stream=True)).text)
        assert content_of(frames) == plain["choices"][0]["message"]["content"]
        costs = [frame["retally"]["cost"] for frame in frames if frame["retally"].get("cost")]
        assert costs == [plain["retally"]["cost"]]

    async def test_serves_n_choices_of_one_job(self, world: World) -> None:
        body = (await world.ask(n=3)).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert len(body["retally"]["receipts"]) == 3

    async def test_unmodified_openai_package_streams(self, world: World) -> None:
        client = openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key, max_retries=0)
        stream = await client.chat.completions.create(**chat(stream=True, stream_options={"include_usage": True}))
        chunks = [chunk async for chunk in stream]
        await client.close()
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == sum(
            len(c.model_extra["retally"].get("ids", [])) for c in chunks[:-1]
        )

    async def test_first_chunk_arrives_before_the_eighth_token_is_made(self, redis_url: str) -> None:
        slow = FakeNode("a", seconds_per_token=0.1)
        async with router_world(redis_url, [slow]) as world:
            client = openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.api_key, max_retries=0)
            async for chunk in await client.chat.completions.create(**chat(stream=True)):
                if chunk.choices[0].delta.content:
                    assert slow.produced < 8
                    break
            await client.close()

    async def test_text_completions(self, world: World) -> None:
        body = {"model": MODEL, "prompt": "count again", "max_tokens": 9, "seed": 3}
        answer = await world.http.post("/v1/completions", json=body, headers=world.auth)
        assert answer.json()["object"] == "text_completion"
        assert answer.json()["choices"][0]["text"].startswith("w")

    async def test_proof_header_only_when_asked_for(self, world: World) -> None:
        assert "x-retally-proof" not in (await world.ask()).headers
        headers = {**world.auth, "x-retally-proof": "1"}
        answer = await world.http.post("/v1/chat/completions", json=chat(), headers=headers)
        assert answer.headers["x-retally-proof"]

    async def test_receipts_can_be_fetched(self, world: World) -> None:
        body = (await world.ask()).json()
        found = await world.http.get(f"/v1/receipts/{body['retally']['jobId']}")
        assert found.json()["receipts"] == body["retally"]["receipts"]


class TestMoney:
    async def test_node_ends_with_a_voucher_for_its_receipt(self, world: World) -> None:
        body = (await world.ask()).json()
        assert await world.settled()
        receipt = JobReceipt.from_wire(body["retally"]["receipts"][0]["receipt"])
        node = next(node for node in world.nodes if node.address == receipt.node)
        line = node.lines[receipt.channel.key]
        assert line.best >= receipt.cum_to == line.cum_to

    async def test_parallel_streams_share_a_channel(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a", seconds_per_token=0.002)]) as world:
            answers = await asyncio.gather(*[world.ask(seed=seed) for seed in range(12)])
            assert {answer.status_code for answer in answers} == {200}
            assert await world.settled()
            (line,) = world.nodes[0].lines.values()
            fees = sum(int(answer.headers["x-retally-cost"]) for answer in answers)
            assert line.cum_to == fees <= line.best
            account = world.router.channels.accounts()[0]
            assert (account.tiling.closed, account.open, account.tiling.beyond) == (fees, {}, {})

    async def test_surplus_prepays_the_next_job(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")]) as world:
            for seed in range(4):
                await world.ask(seed=seed)
            await world.settled()
            (line,) = world.nodes[0].lines.values()
            assert line.best < 2 * line.cum_to

    async def test_unpaid_payer_is_refused(self, world: World) -> None:
        world.chain.fund(world.payer.address, balance=10)
        await asyncio.sleep(0.1)
        answer = await world.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "insufficient_funds")

    async def test_promises_elsewhere_count_against_the_deposit(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")]) as world:
            assert (await world.ask()).status_code == 200
            await world.settled()
            promised = world.router.channels.accounts()[0].promised
            world.chain.fund(world.payer.address, balance=promised + 10)
            await asyncio.sleep(0.1)
            assert (await world.ask()).status_code == 402
            world.chain.fund(world.payer.address, balance=10**6, used=promised)
            await asyncio.sleep(0.1)
            assert (await world.ask()).status_code == 200

    async def test_cap_is_a_limit_of_its_own(self, world: World) -> None:
        world.chain.fund(world.payer.address, cap=10)
        await asyncio.sleep(0.1)
        assert (await world.ask()).json()["error"]["code"] == "cap_exceeded"

    async def test_vouchers_are_repeated_until_the_node_has_them(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a", chunk_tokens=64)]) as world:
            node = world.nodes[0]
            body = (await world.ask()).json()
            assert await world.settled()
            assert node.lines[JobReceipt.from_wire(body["retally"]["receipts"][0]["receipt"]).channel.key].best


class TestOtherNode:
    async def test_refusal_before_the_first_byte_moves_on(self, redis_url: str) -> None:
        bad = FakeNode("a", price_in=1, price_out=1, refuse=EngineUnavailable("no engine"))
        async with router_world(redis_url, [bad, FakeNode("b")]) as world:
            answer = await world.ask()
            assert answer.status_code == 200
            assert answer.json()["retally"]["node"] == world.nodes[1].address

    async def test_one_nodes_credit_limit_is_not_the_payers(self, redis_url: str) -> None:
        bad = FakeNode("a", price_in=1, price_out=1, refuse=InsufficientFunds(2, 1))
        async with router_world(redis_url, [bad, FakeNode("b")]) as world:
            assert (await world.ask()).status_code == 200

    async def test_no_node_left_is_503(self, redis_url: str) -> None:
        bad = [FakeNode(name, refuse=EngineUnavailable("no engine")) for name in "ab"]
        async with router_world(redis_url, bad) as world:
            answer = await world.ask()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "node_unavailable")
            assert answer.headers["retry-after"]

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_stream_continues_exactly_where_a_node_died(self, redis_url: str, server: str) -> None:
        dying = FakeNode("a", price_in=1, price_out=1, die_after=6)
        async with router_world(redis_url, [dying, FakeNode("b")], server=server) as world:
            frames = frames_of((await world.ask(stream=True, stream_options={"include_usage": True})).text)
            whole = content_of(frames)
            dying.die_after, dying.refuse = None, EngineUnavailable("gone")
            plain = (await world.ask()).json()
            assert whole == plain["choices"][0]["message"]["content"]
            assert frames[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
            assert sum("role" in c["delta"] for frame in frames for c in frame["choices"]) == 1
            assert len({frame["id"] for frame in frames}) == 1

    async def test_stream_continues_on_a_node_that_failed_of_late_rather_than_nowhere(self, redis_url: str) -> None:
        dying = FakeNode("a", die_after=6)
        async with router_world(redis_url, [dying, FakeNode("b")]) as world:
            watch, other = world.router.watch, world.nodes[1].address
            watch.of(other).breaker.open_seconds = 3600
            for _ in range(watch.breaker_failures):
                watch.of(other).breaker.failed(watch.clock(), 0.0)
            assert not watch.is_open(other)
            answer = (await world.ask()).json()
            (receipt,) = [JobReceipt.from_wire(one["receipt"]) for one in answer["retally"]["receipts"]]
            assert (receipt.node, receipt.output_from, len(dying.jobs)) == (other, 6, 1)
            assert watch.is_open(other)

    async def test_output_that_nobody_made_yet_is_not_vouched_before_prefill(self, redis_url: str) -> None:
        greedy = FakeNode("a", price_in=1, price_out=1_000_000, greed=5)
        async with router_world(redis_url, [greedy, FakeNode("b")]) as world:
            body = (await world.ask(provider={"order": [greedy.address]})).json()
            assert body["retally"]["node"] == world.nodes[1].address
            assert all(voucher.cumulative == 0 for voucher in greedy.vouchers)

    async def test_a_node_too_dear_to_be_reached_raises_no_hold(self, redis_url: str) -> None:
        nodes = [FakeNode(name) for name in "abcde"] + [FakeNode("f", price_in=10**12, price_out=10**12)]
        async with router_world(redis_url, nodes) as world:
            world.chain.fund(world.payer.address, balance=10**6)
            assert (await world.ask()).status_code == 200

    async def test_dead_nodes_segment_is_settled_by_its_receipt(self, redis_url: str) -> None:
        dying = FakeNode("a", price_in=1, die_after=6)
        async with router_world(redis_url, [dying, FakeNode("b", price_out=7_000_000)]) as world:
            assert (await world.ask()).status_code == 200
            account = next(a for a in world.router.channels.accounts() if a.channel.node == dying.address)
            for _ in range(50):
                if not account.open:
                    break
                await asyncio.sleep(0.05)
            assert await world.settled()
            line = dying.lines[account.channel.key]
            assert account.tiling.closed == line.cum_to > 0
            assert line.best >= line.cum_to

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_no_node_to_continue_ends_in_an_error_event(self, redis_url: str, server: str) -> None:
        async with router_world(redis_url, [FakeNode("a", die_after=6)], server=server) as world:
            text = (await world.ask(stream=True)).text
            last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
            assert last["error"]["code"] == "node_unavailable"
            plain = await world.ask()
            assert plain.status_code == 503

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_leaving_client_cancels_the_node(self, redis_url: str, server: str) -> None:
        slow = FakeNode("a", seconds_per_token=0.05)
        async with router_world(redis_url, [slow], server=server) as world:
            async with world.http.stream(
                "POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=400), headers=world.auth
            ) as answer:
                async for _ in answer.aiter_bytes():
                    break
            for _ in range(60):
                if slow.cancelled:
                    break
                await asyncio.sleep(0.05)
            assert slow.cancelled == 1
            account = world.router.channels.accounts()[0]
            for _ in range(60):
                if not account.open:
                    break
                await asyncio.sleep(0.05)
            assert account.tiling.closed == slow.lines[account.channel.key].cum_to


class TestDishonestNode:
    @pytest.mark.parametrize("how", ["fee", "seed", "signature", "root"])
    async def test_is_left_and_shut_out(self, redis_url: str, how: str) -> None:
        cheat = FakeNode("a", price_in=1, price_out=1, dishonest=how)
        async with router_world(redis_url, [cheat, FakeNode("b")]) as world:
            answer = await world.ask()
            assert answer.status_code == 200, answer.text
            assert world.router.watch.of(cheat.address).cheated
            await world.ask(seed=2)
            assert len(cheat.jobs) == 1
            (fault,) = (await world.http.get("/retally/v1/faults")).json()["faults"]
            assert fault["node"] == cheat.address


class TestUnreachableChain:
    async def test_is_503(self, world: World) -> None:
        world.chain.dead = True
        await asyncio.sleep(0.1)
        answer = await world.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, ChainUnreachable.code)
