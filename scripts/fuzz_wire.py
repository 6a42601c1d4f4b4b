"""A client of few words for the fuzzer: it sends any bytes, and reads one answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 60.0


class Unanswered(Exception):
    """The server closed the connection, or sent no HTTP."""


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def fault(self, *, is_head: bool = False) -> str | None:
        """What is wrong with it: a 500, or an error outside OpenAI's envelope."""
        if self.status == 500 or self.status == 502:
            return f"status {self.status}"
        if self.status < 400 or is_head:
            return None
        if b"x-request-id" not in self.headers:
            return "an error without x-request-id"
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "an error outside the envelope"
        return None if _is_error(error) else "an envelope that lacks something"


def _is_error(error: Any) -> bool:
    if not isinstance(error, dict) or not {"message", "type", "param", "code"} <= error.keys():
        return False
    return bool(error["message"]) and isinstance(error["message"], str) and isinstance(error["type"], str)


class Wire:
    """A connection that is opened again whenever the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, raw: bytes, *, is_head: bool = False) -> Reply:
        """Sends a request; raises Unanswered."""
        was_open = self._streams is not None
        try:
            return await self._ask(raw, is_head=is_head)
        except (Unanswered, OSError):
            self.close()
            if not was_open:
                raise
        # A kept connection may have been closed before this request reached it.
        return await self._ask(raw, is_head=is_head)

    async def _ask(self, raw: bytes, *, is_head: bool) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**20)
        reader, writer = self._streams
        try:
            writer.write(raw)
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await read_reply(reader, is_head=is_head)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, TimeoutError, OSError) as error:
            self.close()
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        if reply.headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return reply

    def close(self) -> None:
        """Drops the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Ordinary:
    """A client that asks one thing again and again, and counts its answers."""

    def __init__(self, host: str, port: int, raw: bytes) -> None:
        self._host, self._port, self._raw = host, port, raw
        self.answers: Counter[int] = Counter()
        self.slowest = 0.0

    async def run(self, seconds: float, clients: int = 2) -> None:
        """For so long, over so many connections."""
        await asyncio.gather(*[self._client(time.monotonic() + seconds) for _ in range(clients)])

    async def _client(self, ends: float) -> None:
        wire = Wire(self._host, self._port)
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                self.answers[(await wire.ask(self._raw)).status] += 1
            except (Unanswered, OSError):
                self.answers[0] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
        wire.close()


async def read_reply(reader: asyncio.StreamReader, *, is_head: bool = False) -> Reply:
    """One whole answer."""
    status = int((await reader.readuntil(b"\r\n")).split(b" ")[1])
    headers = {}
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    if status == 100:
        return await read_reply(reader, is_head=is_head)
    body = b"" if is_head or status in (204, 304) else await _body(reader, headers)
    return Reply(status, headers, body)


async def _body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b"transfer-encoding") == b"chunked":
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(parts)
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    return await reader.read()
