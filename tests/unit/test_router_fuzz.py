"""What nobody should send: a short run of scripts/fuzz_router, and what it found before."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import fuzz_router
from fuzz_wire import Reply, read_reply
from retally_router import http_protocol
from retally_router.http_protocol import RouterProtocol


class TestFuzz:
    @pytest.mark.parametrize("server", ["asgi", "native"])
    async def test_three_hundred_hostile_requests_and_a_short_siege(self, tmp_path: Path, server: str) -> None:
        figures = await fuzz_router.measure(300, 7, 4, 2.0, tmp_path, server)
        assert fuzz_router.faults_of(figures) == [], figures


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """An app that refuses every body, behind the router's protocol."""
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/refused"
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

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

    async def test_body_that_was_refused_does_not_go_on_for_ever(
        self, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "UNREAD_BYTES", 50_000)
        made = socket.create_connection(("127.0.0.1", port))
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(made, b"POST /refused HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        answer = await loop.sock_recv(made, 1000)
        assert answer.startswith(b"HTTP/1.1 413")
        with pytest.raises(OSError, match=r"reset|pipe"):
            await self._send_on(made)
        made.close()

    async def _send_on(self, made: socket.socket) -> None:
        for _ in range(500):
            await asyncio.get_running_loop().sock_sendall(made, b"400\r\n" + b"a" * 1024 + b"\r\n")
            await asyncio.sleep(0.005)
