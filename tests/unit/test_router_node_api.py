"""What a node sent before it died is forwarded: whoever goes on from there must not bill it again."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from retally.errors import NodeUnavailable
from retally_router.node_api import AiohttpNodeApi

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
    api = AiohttpNodeApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=1)
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
