"""Reads of a node's answer that somebody takes before the task is woken: every byte goes one way, in order, in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retally.errors import UpstreamTimeout
from retally_router.node_api import HttpNodeApi
from retally_router.sse import is_one_object
from retally_router.upstream import Upstream

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"


@asynccontextmanager
async def node_that_sends(
    parts: list[bytes], *, ends: bool = True, pause: float = 0.001, idle_seconds: float = 1.0, crlf_seconds: float = 0.0
) -> AsyncIterator[tuple[HttpNodeApi, str]]:
    """A node whose answer's body comes in these parts, each by itself; it may stay open after them."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            for part in parts:
                # Not with the head: who asked waits for it.
                await asyncio.sleep(pause)
                writer.write(b"%x\r\n%s" % (len(part), part))
                await asyncio.sleep(crlf_seconds)
                writer.write(b"\r\n")
                await writer.drain()
            await asyncio.sleep(pause)
            if ends:
                writer.write(b"0\r\n\r\n")
            await reader.read()
        finally:
            writer.close()
            over.set()

    over = asyncio.Event()
    server = await asyncio.start_server(send, "127.0.0.1", 0)
    api = HttpNodeApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=idle_seconds)
    await api.start()
    try:
        yield api, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await api.close()
        await over.wait()
        server.close()


class TestReading:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_every_byte_goes_one_way_and_in_order(self, data: st.DataObject) -> None:
        """Whatever is taken, and wherever the node's writes are cut."""
        body = b"".join(b'data: {"n":%d}\n\n' % number for number in range(12))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), min_size=1, max_size=20)))
        parts = [body[start:end] for start, end in pairwise([0, *cuts, len(body)])]
        choices = data.draw(st.lists(st.booleans(), min_size=40, max_size=40))
        read, _ = asyncio.run(read_all(parts, lambda _: choices.pop() if choices else False))
        assert read == body

    async def test_what_is_taken_wakes_nobody(self) -> None:
        frames = [b'data: {"n":%d}\n\n' % number for number in range(5)]
        read, turns = await read_all([*frames, b"data: [DONE]\n\n"], is_one_object, pause=0.02)
        assert read == b"".join(frames) + b"data: [DONE]\n\n"
        # One for what was not taken, one for the end.
        assert turns == 2

    async def test_a_node_that_falls_silent_after_what_was_taken_is_given_up(self) -> None:
        with pytest.raises(UpstreamTimeout):
            await read_all([b'data: {"n":1}\n\n'], is_one_object, ends=False, pause=0.02)

    @pytest.mark.parametrize("crlf_seconds", [0.0, 0.01], ids=["whole chunks", "their ends apart"])
    async def test_one_that_goes_on_is_given_its_time_anew(self, crlf_seconds: float) -> None:
        frames = [b'data: {"n":%d}\n\n' % number for number in range(6)]
        read, turns = await read_all(frames, is_one_object, pause=0.2, idle_seconds=0.6, crlf_seconds=crlf_seconds)
        assert (read, turns) == (b"".join(frames), 1)

    async def test_a_comment_that_ends_like_an_answer_ends_none(self) -> None:
        """Else the connection of a client that left stayed open, and its node at work."""
        parts = [b": data: [DONE]\n\n", *[b'data: {"n":%d}\n\n' % number for number in range(200)]]
        async with node_that_sends(parts, pause=0.01) as (api, url):
            stream = await api.start_job(url, b"{}", "request")
            assert await stream.next(is_one_object) == parts[0]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await stream.next(is_one_object)
            stream.close()
            await asyncio.sleep(0.1)
            assert api.pool.connections == 0


class Wire(asyncio.Transport):
    """A connection of which everything arrives within one turn of the loop."""

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class TestOneTurn:
    """What arrives before who was woken has run."""

    @staticmethod
    async def read(*reads: bytes, takes: Callable[[bytes], bool]) -> tuple[bytes, list[bytes]]:
        """What is read by the task, and what `takes` was shown."""
        shown: list[bytes] = []

        def take(data: bytes) -> bool:
            shown.append(data)
            return takes(data)

        upstream = Upstream(lambda _: None, lambda _: None)
        upstream.connection_made(Wire())
        asking = asyncio.create_task(upstream.ask(b"GET", b"", 0.0, ""))
        await asyncio.sleep(0)
        upstream.data_received(HEAD)
        await asking
        reading = asyncio.create_task(upstream.next(0.0, "", take))
        await asyncio.sleep(0)
        for data in reads:
            upstream.data_received(data)
        async with asyncio.timeout(1):
            return await reading, shown

    async def test_is_all_read_by_it(self) -> None:
        read, shown = await self.read(b"1\r\na\r\n", b"1\r\nb\r\n", takes=lambda data: data == b"b")
        assert (read, shown) == (b"ab", [b"a"])

    async def test_with_the_answers_end_it_is_read_by_it(self) -> None:
        read, shown = await self.read(b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n", takes=lambda _: True)
        assert (read, shown) == (b"b", [b"a"])


async def read_all(parts: list[bytes], direct: Callable[[bytes], bool], **how: Any) -> tuple[bytes, int]:
    """All that went either way, in its order; and how often it was waited for."""
    read: list[bytes] = []
    turns = 1

    def take(data: bytes) -> bool:
        is_taken = direct(data)
        if is_taken:
            read.append(data)
        return is_taken

    async with node_that_sends(parts, **how) as (api, url):
        stream = await api.start_job(url, b"{}", "request")
        while part := await stream.next(take):
            read.append(part)
            turns += 1
        stream.close()
    return b"".join(read), turns
