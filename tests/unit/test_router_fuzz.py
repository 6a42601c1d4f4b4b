"""What nobody should send: a short run of scripts/fuzz_router, and what it found before."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from tests.fakes_router import FakeNode
from tests.router_world import World, check_error, router_world

import fuzz_router
from fuzz_wire import Reply, read_reply
from retally_router import http_protocol
from retally_router.http_protocol import RouterProtocol


class TestFuzz:
    async def test_three_hundred_hostile_requests_and_a_short_siege(self, tmp_path: Path) -> None:
        figures = await fuzz_router.measure(300, 7, 4, 2.0, tmp_path)
        assert fuzz_router.faults_of(figures) == [], figures


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """An app that must never be reached, behind the router's protocol."""
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.3)

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("reached")

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=RouterProtocol, ws="none", lifespan="off", log_level="critical")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def said(port: int, raw: bytes) -> Reply:
    """What the server says to such bytes before it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(5):
            reply = await read_reply(reader)
            assert await reader.read() == b""
            return reply
    finally:
        writer.close()


class TestConnections:
    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (b"FOO / HTTP/1.1\r\n\r\n", 400),
            (b"\x16\x03\x01\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, 431),
            (b"GET / HTTP/1.1\r\nhost: ", 408),
            (b"", 408),
        ],
    )
    async def test_what_is_no_request_gets_the_envelope_and_is_closed(self, port: int, raw: bytes, status: int) -> None:
        reply = await said(port, raw)
        assert reply.status == status
        assert reply.fault() is None

    async def test_rest_of_a_refused_body_is_not_read(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")], max_body_bytes=2000) as world:
            answer = await world.http.post("/v1/chat/completions", content=b"x" * 5000, headers=world.auth)
            check_error(answer, 413, "payload_too_large")
            assert answer.headers["connection"] == "close"
            await self._ends_endless(world)

    async def _ends_endless(self, world: World) -> None:
        host, _, port = world.url.removeprefix("http://").partition(":")
        made = socket.create_connection((host, int(port)))
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(made, b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            await self._send_on(made)
        made.close()

    async def _send_on(self, made: socket.socket) -> None:
        for _ in range(500):
            await asyncio.get_running_loop().sock_sendall(made, b"400\r\n" + b"a" * 1024 + b"\r\n")
            await asyncio.sleep(0.005)
