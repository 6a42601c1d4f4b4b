"""What a node sent before it died is forwarded: whoever goes on from there must not bill it again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from retally.errors import NodeUnavailable, RemoteError, UpstreamTimeout
from retally_router.node_api import HttpNodeApi
from retally_router.node_pool import NodePool
from retally_router.placement import FRAMES_AHEAD, Placement

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
FRAMES = [b"data: %d\n\n" % number for number in range(40)]


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
async def test_what_came_ahead_of_a_break_is_read_before_it(*, resets: bool) -> None:
    died = asyncio.Event()

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in FRAMES))
        await writer.drain()
        if resets:
            # Closing with a linger of zero is what a killed process with unread input looks like.
            taken: socket.socket = writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        died.set()

    server = await asyncio.start_server(die, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api = HttpNodeApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=1)
    await api.start()
    try:
        stream = await api.start_job(f"http://127.0.0.1:{port}", b"{}", "request")
        await died.wait()
        # The reader is busy while the connection breaks, as it is on a loaded machine.
        await asyncio.sleep(0.1)
        read = b""
        while len(read) < len(b"".join(FRAMES)):
            read += await stream.next()
        with pytest.raises(NodeUnavailable):
            await stream.next()
        assert read == b"".join(FRAMES)
        stream.close()
    finally:
        await api.close()
        server.close()


class TestHostileNode:
    """What a node may send instead of an answer; each ends in an error that says so, and memory is bounded."""

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (b"\x00\x01\x02 no HTTP at all\r\n\r\n", "no HTTP"),
            (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000, "headers are larger"),
            (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(20_000)), "headers are larger"),
            (HEAD + b"1;" + b"x" * 200_000, "around its answer"),
            (HEAD + b"zzz\r\n", "no HTTP"),
            (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "another protocol"),
            (b"", "broke off"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345", "broke off"),
        ],
    )
    async def test_is_told_apart(self, sent: bytes, said: str) -> None:
        async with node_that_sends(sent, closes=b"12345" in sent or not sent) as (api, endpoint):
            with pytest.raises(NodeUnavailable, match=said):
                await read_all(api, endpoint)

    async def test_an_answer_after_the_answer_is_no_part_of_it(self) -> None:
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        async with node_that_sends(whole + b"first" + whole + b"other", closes=False) as (api, endpoint):
            stream = await api.start_job(endpoint, b"{}", "request")
            assert [await stream.next(), await stream.next()] == [b"first", b""]

    async def test_one_that_says_nothing_is_given_up(self) -> None:
        async with node_that_sends(b"", closes=False, seconds=0.2) as (api, endpoint):
            with pytest.raises(UpstreamTimeout):
                await api.start_job(endpoint, b"{}", "request")

    async def test_one_that_stops_is_given_up_after_what_it_sent(self) -> None:
        async with node_that_sends(HEAD + b"5\r\nhello\r\n", closes=False, seconds=0.2) as (api, endpoint):
            stream = await api.start_job(endpoint, b"{}", "request")
            assert await stream.next() == b"hello"
            with pytest.raises(UpstreamTimeout):
                await stream.next()

    @pytest.mark.parametrize("endpoint", ["ftp://x", "http://x y", "http://x\r\ny: z", "http://", "http://x:99999"])
    async def test_an_endpoint_that_is_no_address(self, endpoint: str) -> None:
        api = HttpNodeApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=1)
        with pytest.raises(NodeUnavailable, match="can't be used"):
            await api.info(endpoint)

    async def test_is_held_back_while_nobody_reads(self) -> None:
        flood = b"".join(b"%x\r\n%b\r\n" % (60_000, b"x" * 60_000) for _ in range(400))
        async with node_that_sends(HEAD + flood + b"0\r\n\r\n", closes=False) as (api, endpoint):
            stream = await api.start_job(endpoint, b"{}", "request")
            await asyncio.sleep(0.2)
            first = await stream.next()
            assert len(first) < 1_000_000
            total = len(first)
            while part := await stream.next():
                total += len(part)
            assert total == 400 * 60_000


class TestBusyRouter:
    """A loop that was busy runs its timers before it reads: what has arrived must count all the same."""

    @pytest.mark.parametrize("turns", [1, 10], ids=["connecting", "waiting"])
    async def test_reads_what_came_before_it_calls_a_node_late(self, turns: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            answering = asyncio.create_task(asyncio.to_thread(answer_once, listener))
            port = listener.getsockname()[1]
            api = HttpNodeApi(connect_seconds=0.2, first_byte_seconds=0.2, idle_seconds=0.2)
            await api.start()
            try:
                asking = asyncio.create_task(api.start_job(f"http://127.0.0.1:{port}", b"{}", "request"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(0.5)  # noqa: ASYNC251  # this is what is tested
                assert await (await asking).next() == b"hello"
            finally:
                await api.close()
                await answering


def answer_once(listener: socket.socket) -> None:
    """One answer, at once."""
    line, _ = listener.accept()
    with line:
        line.recv(4096)
        line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        line.recv(1)


class TestConnections:
    async def test_serve_one_request_after_the_other(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
        async with node_that_sends(answer, closes=False) as (api, endpoint):
            for _ in range(5):
                assert await api.info(endpoint) == {}
            assert api.pool.connections == 1

    async def test_are_so_many_at_most(self) -> None:
        async with node_that_sends(b"", closes=False) as (_, endpoint):
            pool = NodePool(connect_seconds=1, shortest_seconds=1, most=2)
            await pool.start()
            asks = [pool.ask("GET", endpoint, "/", b"", request_id=None, seconds=0.5) for _ in range(3)]
            found = await asyncio.gather(*asks, return_exceptions=True)
            assert sorted(type(each).__name__ for each in found) == [
                "NodeUnavailable",
                "UpstreamTimeout",
                "UpstreamTimeout",
            ]
            assert pool.connections == 0
            await pool.close()


async def read_all(api: HttpNodeApi, endpoint: str) -> None:
    """Asks and reads to the end."""
    stream = await api.start_job(endpoint, b"{}", "request")
    while await stream.next():
        pass


@asynccontextmanager
async def node_that_sends(
    answer: bytes, *, closes: bool, seconds: float = 5.0
) -> AsyncIterator[tuple[HttpNodeApi, str]]:
    """A node that answers every request with those bytes."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if closes:
                    writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    api = HttpNodeApi(connect_seconds=1, first_byte_seconds=seconds, idle_seconds=seconds)
    await api.start()
    try:
        yield api, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await api.close()
        for writer in writers:
            writer.close()
        server.close()


class Read:
    """A node's stream of one read."""

    status = 200

    def __init__(self, *frames: bytes) -> None:
        self._data = b"\n\n".join([*frames, b""])

    async def next(self, direct: object = None) -> bytes:
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        pass


async def test_frames_ahead_of_an_error_in_the_same_read_are_handed_out_first() -> None:
    read = Read(b'data: {"id":"1"}', b'data: {"error":{"message":"gone","code":"x"}}', b'data: {"id":"2"}')
    placement = Placement(None, None, None, None, read)  # type: ignore[arg-type]  # only its stream is asked
    assert [frame.value for frame in await placement.next()] == [{"id": "1"}]
    with pytest.raises(RemoteError, match="gone"):
        await placement.next()


@pytest.mark.parametrize("tokens", [3, 40])
async def test_many_frames_are_not_held_back_by_the_receipt_behind_them(tokens: int) -> None:
    ids = [b'data: {"retally":{"choice":0,"ids":[%d]}}' % number for number in range(tokens)]
    receipt = b'data: {"retally":{"choice":0,"receipt":{}}}'
    read = Read(*ids, receipt, b"data: [DONE]")
    placement = Placement(None, None, None, None, read)  # type: ignore[arg-type]  # only its stream is asked
    await placement.wait_first()
    taken = []
    while frames := await placement.next():
        taken.append([frame.has_receipt for frame in frames])
    assert [each for part in taken for each in part] == [False] * tokens + [True]
    assert len(taken) == (2 if tokens > FRAMES_AHEAD else 1)
