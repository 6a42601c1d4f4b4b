"""Clients that misuse the connection itself, in a process of their own: `fuzz_sockets.py`, its orders on stdin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

EACH = 12
# A storm of connections is another matter: this one keeps each client at its own pace.
PACE_SECONDS = 1.0


@dataclass
class Siege:
    """One router under siege: all kinds of misuse at once."""

    host: str
    port: int
    ordinary: str
    streamed: str
    seconds: float

    def __post_init__(self) -> None:
        self._opened: Counter[str] = Counter()

    async def run(self) -> Counter[str]:
        """Misuses the router from a process of its own; answers how many connections of each kind it opened."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(json.dumps(asdict(self)).encode())
        return Counter(json.loads(out))

    async def misuse(self) -> Counter[str]:
        """Does it here."""
        ends = time.monotonic() + self.seconds
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._slow_headers,
            self._slow_body,
            self._large_headers,
            self._endless_body,
            self._half_closed,
            self._never_reads,
            self._vanishes,
            self._garbage,
        ]
        hostile = [asyncio.create_task(self._repeat(kind, ends)) for kind in kinds for _ in range(EACH)]
        await asyncio.sleep(self.seconds)
        for task in hostile:
            task.cancel()
        for ended in await asyncio.gather(*hostile, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        return self._opened

    async def _repeat(self, kind: Callable[[], Awaitable[None]], ends: float) -> None:
        while time.monotonic() < ends:
            self._opened[kind.__name__.strip("_")] += 1
            # The router may close on such a client at any time.
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self.seconds):
                    await kind()
            await asyncio.sleep(PACE_SECONDS)

    @contextlib.asynccontextmanager
    async def _connection(self):  # type: ignore[no-untyped-def]  # reader and writer
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _slow_headers(self) -> None:
        async with self._connection() as (_, writer):
            for byte in self.ordinary.encode():
                if writer.transport.is_closing():
                    return
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)

    async def _slow_body(self) -> None:
        head, _, body = self.ordinary.encode().partition(b"\r\n\r\n")
        async with self._connection() as (_, writer):
            writer.write(head + b"\r\n\r\n")
            for byte in body[:-1]:
                if writer.transport.is_closing():
                    return
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)

    async def _large_headers(self) -> None:
        async with self._connection() as (reader, writer):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
            for number in range(40):
                if writer.transport.is_closing():
                    return
                writer.write(b"x-%d: " % number + b"a" * 16_000 + b"\r\n")
                await writer.drain()
            writer.write(b"\r\n")
            await reader.read(1000)

    async def _endless_body(self) -> None:
        async with self._connection() as (_, writer):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            while not writer.transport.is_closing():
                writer.write(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.005)

    async def _half_closed(self) -> None:
        async with self._connection() as (reader, writer):
            writer.write(self.ordinary.encode()[: len(self.ordinary) // 2])
            await writer.drain()
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await reader.read()

    async def _never_reads(self) -> None:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        made.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(made, (self.host, self.port))
            await loop.sock_sendall(made, self.streamed.encode())
            await asyncio.sleep(self.seconds)
        finally:
            made.close()

    async def _vanishes(self) -> None:
        async with self._connection() as (_, writer):
            writer.write(self.streamed.encode())
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()

    async def _garbage(self) -> None:
        async with self._connection() as (reader, writer):
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n")
            await reader.read(1000)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Siege(**json.load(sys.stdin)).misuse())))
