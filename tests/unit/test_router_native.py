"""The native server: HTTP as hostile clients speak it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.fakes_router import FakeNode
from tests.router_world import World, chat, router_world

from retally_router.native_line import HEAD_BYTES
from retally_router.native_server import bound


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url, [FakeNode("a")], server="native", client_seconds=0.5) as built:
        yield built


@asynccontextmanager
async def wire(world: World, data: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which that was sent."""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response with a length: status, headers, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
    return int(head[0].split(" ")[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def refused(world: World, data: bytes, status: int, code: str) -> None:
    """Those bytes get that error in full form, and then the connection ends."""
    async with wire(world, data) as (reader, _):
        found, headers, body = await answer_of(reader)
        error = json.loads(body)["error"]
        assert (found, error["code"]) == (status, code)
        assert headers["x-request-id"]
        assert headers["connection"] == "close"
        assert error["message"]
        assert await reader.read() == b""


def request(world: World, body: bytes, *lines: str) -> bytes:
    """A completion request as bytes."""
    head = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {world.api_key}", *lines]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


BODY = json.dumps(chat()).encode()


class TestNoHttp:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
            b"GET\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: no\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            b"GET / HTTP/1.1\r\nna me: x\r\n\r\n",
        ],
    )
    async def test_is_answered_in_openais_envelope(self, world: World, data: bytes) -> None:
        await refused(world, data, 400, "invalid_http")

    async def test_another_protocol_is_refused(self, world: World) -> None:
        data = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        await refused(world, data, 400, "upgrade_refused")


class TestLimits:
    async def test_headers_too_large(self, world: World) -> None:
        await refused(world, request(world, BODY, "x-long: " + "x" * HEAD_BYTES), 431, "headers_too_large")

    async def test_a_header_that_never_ends(self, world: World) -> None:
        await refused(world, b"GET / HTTP/1.1\r\nx: " + b"x" * (HEAD_BYTES + 1), 431, "headers_too_large")

    async def test_a_body_that_says_it_is_too_large(self, world: World) -> None:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n"
        await refused(world, head, 413, "payload_too_large")

    async def test_chunks_without_a_body(self, redis_url: str) -> None:
        async with router_world(redis_url, [], server="native", max_body_bytes=2048) as world:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;"
            async with wire(world, head) as (reader, writer):
                await asyncio.sleep(0.05)
                writer.write(b"x" * 5000)
                assert (await answer_of(reader))[0] == 413

    async def test_a_head_that_dribbles(self, world: World) -> None:
        async with wire(world, b"GET /healthz HT") as (reader, _):
            status, _, body = await answer_of(reader)
            assert (status, json.loads(body)["error"]["code"]) == (400, "body_too_slow")

    async def test_a_connection_that_asks_nothing_is_closed(self, world: World) -> None:
        async with wire(world, b"") as (reader, _):
            assert await reader.read() == b""


class TestConnection:
    async def test_serves_requests_sent_ahead_in_their_order(self, world: World) -> None:
        bodies = [json.dumps(chat(max_tokens=count)).encode() for count in (3, 5, 4)]
        async with wire(world, b"".join(request(world, body) for body in bodies)) as (reader, _):
            answers = [await answer_of(reader) for _ in bodies]
        assert [json.loads(body)["usage"]["completion_tokens"] for _, _, body in answers] == [3, 5, 4]

    async def test_garbage_after_a_request_does_not_take_its_answer(self, world: World) -> None:
        async with wire(world, request(world, BODY) + b"\x00\x01garbage\r\n\r\n") as (reader, _):
            assert (await answer_of(reader))[0] == 200
            assert (await answer_of(reader))[0] == 400
            assert await reader.read() == b""

    async def test_old_clients_get_a_stream_that_ends_with_its_connection(self, world: World) -> None:
        body = json.dumps(chat(stream=True)).encode()
        data = request(world, body).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        async with wire(world, data) as (reader, _):
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert rest.endswith(b"data: [DONE]\n\n")

    async def test_waits_for_a_body_that_is_announced(self, world: World) -> None:
        head = request(world, BODY, "expect: 100-continue").removesuffix(BODY)
        async with wire(world, head) as (reader, writer):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(BODY)
            assert (await answer_of(reader))[0] == 200

    async def test_head_has_no_body(self, world: World) -> None:
        async with wire(world, b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as (reader, _):
            text = await reader.read()
        assert text.count(b"\r\n\r\n") == 1
        assert text.endswith(b"\r\n\r\n")

    async def test_query_and_escapes_name_the_same_path(self, world: World) -> None:
        for path in (b"/v1/chat/completions?x=1", b"/v1/chat%2Fcompletions"):
            data = request(world, BODY).replace(b"/v1/chat/completions", path, 1)
            async with wire(world, data) as (reader, _):
                assert (await answer_of(reader))[0] == 200

    async def test_several_processes_may_share_a_port(self) -> None:
        first = bound("127.0.0.1", 0, shared=True)
        second = bound("127.0.0.1", first.getsockname()[1], shared=True)
        assert isinstance(second, socket.socket)
        first.close()
        second.close()
