"""Plain frames go on without waking the job's task: the client gets the same, and the books say the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.fakes_router import FakeNode
from tests.router_world import World, chat, router_world

from retally.errors import NodeUnavailable
from retally_router.direct_frames import DirectFrames
from retally_router.frames import Frame
from retally_router.placement import MOST_PROMPT_BYTES, Placement
from retally_router.sse import is_one_object

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


def test_one_whole_frame_is_told_from_all_else() -> None:
    assert is_one_object(b'data: {"a":1}\n\n')
    for data in (b"", b"\n\n", b'a":1}\n\n', b'data: {"a":1}\n', b"data: [DONE]\n\n", b": a comment\n\n"):
        assert not is_one_object(data)
    assert not is_one_object(b'data: {"a":1}\n\ndata: {"b":2}\n\n')
