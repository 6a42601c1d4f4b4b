"""Clients, stores and chains that misbehave: nothing ends the router, nothing waits for ever, nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import MODEL
from tests.router_world import World, chat, check_error, router_world

from retally.devnet.redis_server import RedisServer
from retally.protocol.encoding import to_hex
from retally_router.asgi_sink import AsgiSink
from retally_router.hot_path import Answer
from retally_router.ports import Standing
from retally_router.sink import ClientGone, Message

DEEP = b"[" * 100_000
MANY_DIGITS = "9" * 400


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url) as built:
        yield built


def with_text(name: str, text: str) -> bytes:
    """A request whose field has a value that no Python object would be written as."""
    return json.dumps({**chat(), name: "here"}).encode().replace(b'"here"', text.encode())


async def post(world: World, content: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    return await world.http.post(path, content=content, headers={**world.auth, **headers})


class TestNesting:
    @pytest.mark.parametrize("body", [DEEP, b'{"model":' + b'{"a":' * 50_000], ids=["lists", "objects"])
    async def test_deep_json_is_refused(self, world: World, body: bytes) -> None:
        check_error(await post(world, body), 400, "invalid_json")
        check_error(await post(world, body, "/retally/v1/quotes"), 400, "invalid_json")

    async def test_deep_json_in_a_header_is_refused(self, world: World) -> None:
        header = base64.urlsafe_b64encode(b"[" * 5000).decode()
        answer = await post(world, b"{}", **{"x-retally-authorization": header})
        check_error(answer, 401, "invalid_authorization")

    async def test_deep_json_of_a_node_is_its_own_fault(self, redis_url: str) -> None:
        class Deep(FakeNode):
            def info(self) -> dict[str, Any]:
                nested: Any = []
                for _ in range(900):
                    nested = [nested]
                return {**super().info(), "load": nested}

        async with router_world(redis_url, [Deep("deep"), FakeNode("b")]) as world:
            assert (await world.ask()).status_code == 200


class TestValues:
    @pytest.mark.parametrize(
        "name", ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"]
    )
    @pytest.mark.parametrize("text", [MANY_DIGITS, "-1e9", "1e300", "-0.5e9", "true", "[]", '"1"'])
    async def test_no_number_passes_that_is_out_of_range(self, world: World, name: str, text: str) -> None:
        error = check_error(await post(world, with_text(name, text)), 400, "unsupported_parameter")
        assert error["param"] == name
        assert error["hint"]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("temperature", "NaN"),
            ("temperature", "Infinity"),
            ("max_tokens", "9" * 5000),
            ("seed", "1e999"),
        ],
    )
    async def test_what_is_no_json_number(self, world: World, name: str, text: str) -> None:
        assert (await post(world, with_text(name, text))).status_code == 400

    @pytest.mark.parametrize("n", [0, -1, 129, 10**30])
    async def test_choices_beyond_the_limits(self, world: World, n: int) -> None:
        check_error(await world.ask(n=n), 400, "unsupported_parameter")

    @pytest.mark.parametrize("maximum", [0, -1, 2**32, 10**30])
    async def test_lengths_beyond_the_limits(self, world: World, maximum: int) -> None:
        assert check_error(await world.ask(max_tokens=maximum), 400, "unsupported_parameter")["param"] == "max_tokens"

    async def test_a_length_beyond_the_context_costs_no_more_than_the_context(self, world: World) -> None:
        assert (await world.ask(max_tokens=10**9, n=1)).status_code == 200

    @pytest.mark.parametrize(
        "change",
        [
            {"logit_bias": {str(token): 1 for token in range(10_000)}},
            {"logit_bias": {"9" * 5000: 1}},
            {"logit_bias": {"1": 10**400}},
            {"stop": ["a"] * 1000},
            {"stop": "x" * 5000},
            {"messages": [{"role": ["user"], "content": "a"}]},
            {"messages": [{"role": {}, "content": "a"}]},
            {"messages": [{"role": "king", "content": "a"}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        ],
    )
    async def test_too_many_or_too_strange(self, world: World, change: dict[str, Any]) -> None:
        assert check_error(await world.ask(change), 400, "unsupported_parameter")["hint"]

    @pytest.mark.parametrize("deadline", ["9" * 5000, "-1", "1e9", str(2**41)])
    async def test_deadlines_of_lists(self, world: World, deadline: str) -> None:
        path = f"/retally/v1/keys?payer={world.payer.address}"
        check_error(await world.http.get(path, headers={"x-retally-deadline": deadline}), 400, "bad_request")

    async def test_a_signature_of_spaces(self, world: World) -> None:
        late = 2**39
        body = {"payer": world.payer.address, "cap": "5", "expiry": late, "deadline": late}
        answer = await world.http.post("/retally/v1/keys", json={**body, "signature": "0x" + " " * 130})
        check_error(answer, 400, "bad_request")

    async def test_repeated_headers_are_one_client_not_two(self, world: World) -> None:
        headers = [("authorization", f"Bearer {world.api_key}"), ("authorization", "Bearer nonsense")]
        answer = await world.http.post("/v1/chat/completions", json=chat(), headers=headers)
        check_error(answer, 401, "invalid_api_key")


class TestSlowClients:
    async def test_one_that_takes_nothing_is_left(self) -> None:
        async def full(message: Message) -> None:
            await asyncio.Event().wait()

        answer = Answer(AsgiSink(full, b"req", 0.05))
        with pytest.raises(ClientGone):
            await answer.body(b"data")
        assert answer.ended

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_one_that_never_reads_holds_up_nobody(self, redis_url: str, server: str) -> None:
        async with router_world(redis_url, client_seconds=0.3, server=server) as world:
            reader = unread(world, json.dumps(chat(stream=True, n=16, max_tokens=900)).encode())
            try:
                began = time.monotonic()
                assert (await world.ask()).status_code == 200
                assert time.monotonic() - began < 10
                await idle(world)
            finally:
                reader.close()

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_one_that_never_finishes_its_request_is_answered(self, redis_url: str, server: str) -> None:
        async with router_world(redis_url, client_seconds=0.2, server=server) as world:
            host, port = world.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
        assert head.startswith(b"HTTP/1.1 400")
        assert b"x-request-id" in head

    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_many_that_leave_at_once_leave_nothing_behind(self, redis_url: str, server: str) -> None:
        async with router_world(redis_url, server=server) as world:
            for _ in range(20):
                unread(world, json.dumps(chat(stream=True)).encode()).close()
            assert (await world.ask()).status_code == 200
            await idle(world)


def unread(world: World, body: bytes) -> socket.socket:
    """A client that has sent a request and takes nothing of the answer."""
    host, port = world.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.api_key}\r\n"
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client


class Stuck(FakeNode):
    """A node that takes jobs and never begins one."""

    async def _job(self, job: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue


async def idle(world: World) -> None:
    """Returns once no node has a job of this router any more."""
    async with asyncio.timeout(20):
        while await is_busy(world):
            continue


async def is_busy(world: World) -> bool:
    """Whether a node still has a job, a moment later."""
    await asyncio.sleep(0.05)
    return any(world.router.watch.of(node.address).in_flight for node in world.nodes)


class TestDeadParts:
    async def test_a_chain_that_never_answers(self, redis_url: str) -> None:
        async with router_world(redis_url, chain_seconds=0.2) as world:

            async def silence(payer: str, signer: str) -> Standing:
                await asyncio.sleep(60)
                raise AssertionError

            world.chain.standing = silence  # type: ignore[method-assign]  # a chain that hangs
            await asyncio.sleep(0.1)
            began = time.monotonic()
            error = check_error(await world.ask(), 503, "chain_unreachable")
            assert time.monotonic() - began < 5
        assert error["hint"]

    async def test_a_store_that_died(self, tmp_path: Path) -> None:
        store = RedisServer(tmp_path / "store", mark=str(tmp_path))
        await store.start()
        try:
            async with router_world(store.url) as world:
                assert (await world.ask()).status_code == 200
                store.service.kill()
                began = time.monotonic()
                error = check_error(await world.ask(), 503, "unavailable")
                assert time.monotonic() - began < 15
                assert error["hint"]
        finally:
            await store.stop()

    async def test_one_stuck_engine_behind_all_nodes_takes_the_time_of_one(self, redis_url: str) -> None:
        nodes = [Stuck(name) for name in "abc"]
        async with router_world(redis_url, nodes, first_byte_seconds=1.0) as world:
            began = time.monotonic()
            error = check_error(await world.ask(), 504, "upstream_timeout")
            assert time.monotonic() - began < 4
        assert error["hint"]

    async def test_one_stuck_node_leaves_time_for_another(self, redis_url: str) -> None:
        async with router_world(redis_url, [Stuck("a"), FakeNode("b")], first_byte_seconds=2.0) as world:
            order = {"provider": {"order": [node.address for node in world.nodes]}}
            assert (await world.ask(order)).status_code == 200


class TestModels:
    async def test_names_of_bytes_that_no_name_has(self, world: World) -> None:
        for name in ("%00", "%ff", "..%2f..", "x" * 5000):
            check_error(await world.http.get(f"/v1/models/{name}"), 404, "model_not_found")

    async def test_an_id_that_is_no_hex(self, world: World) -> None:
        path = f"/retally/v1/nodes/{world.nodes[0].address}/receipts/0x{'zz' * 32}"
        check_error(await world.http.get(path), 400, "bad_request")

    async def test_ids_in_hex_name_the_model_too(self, world: World) -> None:
        model = (await world.http.get(f"/v1/models/{MODEL}")).json()
        assert (await world.ask(model=model["retally"]["modelId"])).status_code == 200
        assert to_hex(bytes.fromhex(model["retally"]["modelId"][2:])) == model["retally"]["modelId"]
