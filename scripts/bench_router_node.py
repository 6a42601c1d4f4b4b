"""The server of scripts/bench_router's node. Usage: bench_router_node.py PORT NAME"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import httptools
import msgspec
import uvloop

from bench_router_answer import Answer, Book
from bench_router_wire import DELIVERY

PLAIN = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._url, self._body = b"", bytearray()
        self._gone = False
        self._answer: Answer | None = None
        self._out: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._out = transport  # type: ignore[assignment]  # uvloop's own class
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Stops what streams; a job whose router left, say for another node that was quicker, is closed unbilled."""
        self._gone = True
        if self._answer is not None:
            self._answer.close()

    def data_received(self, data: bytes) -> None:
        """Parses."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """The path."""
        self._url = url

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answers."""
        body, self._body = bytes(self._body), bytearray()
        part = self._url.split(b"/")[3:]
        if part[0] == b"jobs":
            self._job(Answer(self._book, body))
        elif part[0] == b"vouchers":
            lines = []
            for item in DELIVERY.decode(body).vouchers:
                line = self._book.line(item.voucher)
                line.take(item.voucher, item.signature)
                lines.append(line.view())
            self._plain({"channels": lines})
        elif part[0] == b"channels":
            key = (part[1].decode(), part[2].decode(), int(part[3]))
            empty = {"best": "0", "bestSignature": None, "lastCumTo": "0", "due": "0", "open": 0, "unpaid": "0"}
            known = self._book.lines.get(key)
            self._plain(known.view() if known else empty)
        elif part[0] == b"receipts":
            found = self._book.receipts.get(part[1].decode())
            shown = [msgspec.Raw(found)] if found else []
            self._plain({"jobId": part[1].decode(), "receipts": shown}, 200 if found else 404)
        elif part[0] == b"bodies":
            self._plain([body.decode() for body in self._book.bodies])
        else:
            self._plain(self._book.info())

    def _plain(self, value: Any, status: int = 200) -> None:
        raw = msgspec.json.encode(value)
        self._out.write(PLAIN % (status, len(raw)) + raw)

    def _job(self, answer: Answer) -> None:
        self._answer = answer
        if not answer.is_paid:
            required = str(answer.line.cum_to + sum(answer.line.open.values()))
            answer.close()
            error = {"message": "pay first", "code": "voucher_too_low", "details": {"required": required}}
            self._plain({"error": error}, 402)
            return
        loop = asyncio.get_running_loop()
        if answer.pace:
            loop.call_later(answer.pace, self._begin, loop, answer)
        else:
            self._begin(loop, answer)

    def _begin(self, loop: asyncio.AbstractEventLoop, answer: Answer) -> None:
        if self._gone:
            return
        opening = STREAM + _chunked(answer.opening())
        if answer.sent == 0 and answer.at_once:
            frames = [answer.next() for _ in range(answer.count)]
            self._out.write(opening + _chunked(b"".join(frames) + self._tail(answer)) + b"0\r\n\r\n")
            return
        self._out.write(opening)
        self._token(loop, answer, loop.time())

    def _token(self, loop: asyncio.AbstractEventLoop, answer: Answer, due: float) -> None:
        if self._gone:
            return
        frame = _chunked(answer.next())
        if answer.sent == answer.count:
            self._out.write(frame + _chunked(self._tail(answer)) + b"0\r\n\r\n")
            return
        self._out.write(frame)
        if answer.pace:
            due += answer.pace
            loop.call_at(due, self._token, loop, answer, due)
        else:
            loop.call_soon(self._token, loop, answer, due)

    def _tail(self, answer: Answer) -> bytes:
        return (answer.usage() if answer.job.options.include_usage else b"") + b"data: [DONE]\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int, name: str) -> None:
    """Until it is killed."""
    book = Book(name)
    server = await asyncio.get_running_loop().create_server(partial(Connection, book), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
