"""Plain frames go on without waking the job's task: the client gets the same, and the books say the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes_router import FakeNode
from tests.router_world import World, chat, router_world

from retally.errors import NodeUnavailable, UpstreamTimeout
from retally_router.direct_frames import DirectFrames
from retally_router.frames import Frame
from retally_router.node_api import HttpNodeApi
from retally_router.placement import MOST_PROMPT_BYTES, Placement
from retally_router.sse import is_one_object
from retally_router.upstream import Upstream

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"
PACE = 0.004


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was passed on without the task."""
    found: list[bytes] = []
    whole = DirectFrames.__call__

    def spying(self: DirectFrames, data: bytes) -> bool:
        if whole(self, data):
            found.append(data)
            return True
        return False

    monkeypatch.setattr(DirectFrames, "__call__", spying)
    return found


def values_of(text: str) -> list[dict[str, Any]]:
    """The objects of a stream that came whole."""
    frames = [frame for frame in text.split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


def ids_of(values: list[dict[str, Any]]) -> list[int]:
    """All tokens of a stream."""
    return [each for value in values for each in value.get("retally", {}).get("ids", [])]


async def test_what_a_node_sends_arrives_as_it_was_sent_and_is_paid(redis_url: str, taken: list[bytes]) -> None:
    node = FakeNode("a", seconds_per_token=PACE)
    async with router_world(redis_url, [node], server="native") as world:
        answer = await world.ask(stream=True, max_tokens=60)
        (sent,) = node.sent.values()
        assert answer.content == b"".join(message["body"] for message in sent) + b"data: [DONE]\n\n"
        tokens = len(ids_of(values_of(answer.text)))
        # All but the first frame, the last, and what the machine was too busy to read one by one.
        assert tokens // 2 < len(taken) < tokens
        assert any(b"chunkSignature" in data for data in taken)
        assert await world.settled()
        (line,), (account,) = node.lines.values(), world.router.channels.accounts()
        assert line.best >= line.cum_to == account.tiling.closed > 0


async def test_over_asgi_the_server_is_waited_for(redis_url: str, taken: list[bytes]) -> None:
    node = FakeNode("a", seconds_per_token=PACE)
    async with router_world(redis_url, [node], server="asgi") as world:
        answer = await world.ask(stream=True)
        (sent,) = node.sent.values()
        assert answer.content == b"".join(message["body"] for message in sent) + b"data: [DONE]\n\n"
        assert not taken


async def test_a_node_that_dies_is_replaced_from_the_next_token(redis_url: str, taken: list[bytes]) -> None:
    nodes = [FakeNode(name, seconds_per_token=PACE) for name in "ab"]
    async with router_world(redis_url, nodes, server="native", hedge_share=0.0) as world:
        whole = values_of((await world.ask(stream=True, max_tokens=60)).text)
        first = next(node for node in nodes if node.jobs)
        first.die_after = min(10, len(ids_of(whole)) - 2)
        before = len(taken)
        again = values_of((await world.ask(stream=True, max_tokens=60)).text)
        assert ids_of(again) == ids_of(whole)
        assert len({value["retally"]["receipt"]["node"] for value in again if "receipt" in value["retally"]}) == 1
        # The second node's frames are not passed on so: they may have to be changed.
        assert 0 < len(taken) - before <= 10


@pytest.mark.parametrize("how", ["fee", "seed", "signature", "root"])
async def test_a_lie_in_mid_stream_is_found_and_told(redis_url: str, taken: list[bytes], how: str) -> None:
    cheat = FakeNode("a", price_in=1, price_out=1, seconds_per_token=PACE, dishonest=how)
    async with router_world(redis_url, [cheat, FakeNode("b")], server="native", hedge_share=0.0) as world:
        values = values_of((await world.ask(stream=True)).text)
        assert [value["retally"]["outputFrom"] for value in values if value["retally"].get("ids")] == list(
            range(len(ids_of(values)))
        )
        assert taken
        assert world.router.watch.of(cheat.address).cheated
        (fault,) = (await world.http.get("/retally/v1/faults")).json()["faults"]
        assert fault["node"] == cheat.address


async def test_a_client_that_reads_slowly_gets_all(redis_url: str) -> None:
    node = FakeNode("a", seconds_per_token=0.0)
    async with router_world(redis_url, [node], server="native") as world, slow_client(world) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        read = b""
        while b"[DONE]" not in read:
            part = await reader.read(300)
            assert part
            read += part
            await asyncio.sleep(0.001)
        (sent,) = node.sent.values()
        for message in sent:
            assert message["body"] in read


@asynccontextmanager
async def slow_client(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that asked for a stream, with little room for what comes."""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=512)
    body = json.dumps(chat(stream=True, max_tokens=200)).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {world.api_key}"]
    writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def node_that_sends(
    parts: list[bytes], *, ends: bool = True, pause: float = 0.001, idle_seconds: float = 1.0
) -> AsyncIterator[tuple[HttpNodeApi, str]]:
    """A node whose answer's body comes in these parts, each by itself; it may stay open after them."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            for part in parts:
                # Not with the head: who asked waits for it.
                await asyncio.sleep(pause)
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
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

    async def test_one_that_goes_on_is_given_its_time_anew(self) -> None:
        frames = [b'data: {"n":%d}\n\n' % number for number in range(6)]
        read, turns = await read_all(frames, is_one_object, pause=0.2, idle_seconds=0.6)
        assert (read, turns) == (b"".join(frames), 1)


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


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("held", [Frame(b"data: {}", b"{}")]),
        ("done", True),
        ("failure", NodeUnavailable("gone")),
        ("whole", True),
        ("received", MOST_PROMPT_BYTES),
    ],
)
def test_nothing_overtakes_what_a_placement_has_left(attribute: str, value: object) -> None:
    placement = Placement(None, None, None, None, None)  # type: ignore[arg-type]  # only its own state is asked
    assert placement.is_next(b"data: {}\n\n")
    setattr(placement, attribute, value)
    assert not placement.is_next(b"data: {}\n\n")


def test_the_rest_of_a_frame_is_no_frame() -> None:
    placement = Placement(None, None, None, None, None)  # type: ignore[arg-type]  # only its own state is asked
    assert not placement.cutter.feed(b'data: {"a":1,\n')
    assert not placement.is_next(b'data: {"b":2}\n\n')


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


def test_one_whole_frame_is_told_from_all_else() -> None:
    assert is_one_object(b'data: {"a":1}\n\n')
    for data in (b"", b"\n\n", b'a":1}\n\n', b'data: {"a":1}\n', b"data: [DONE]\n\n", b": a comment\n\n"):
        assert not is_one_object(data)
    assert not is_one_object(b'data: {"a":1}\n\ndata: {"b":2}\n\n')
