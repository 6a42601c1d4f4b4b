"""A relay in front of a real engine that lets its tokens through slowly, or not at all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

EVENT_END = b"\n\n"


class SlowEngine:
    """Passes bytes on; between two events of an answer it waits, and while it is frozen it passes nothing."""

    def __init__(self, engine_url: str, *, seconds_per_event: float = 0.0) -> None:
        target = urlsplit(engine_url)
        self._target = (target.hostname or "127.0.0.1", target.port or 80)
        self.seconds_per_event = seconds_per_event
        self.url = ""
        self._running = asyncio.Event()
        self._running.set()
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def freeze(self) -> None:
        """Hold everything, as a stopped process would: connections stay open and silent."""
        self._running.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._running.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        try:
            engine_reader, engine_writer = await asyncio.open_connection(*self._target)
            # Either side may leave: then the other is left too, as over one connection.
            ways = [
                asyncio.create_task(self._copy(reader, engine_writer, 0.0)),
                asyncio.create_task(self._copy(engine_reader, writer, self.seconds_per_event)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                engine_writer.close()
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                for event in _events(data) if pause else (data,):
                    await self._running.wait()
                    writer.write(event)
                    await writer.drain()
                    await asyncio.sleep(pause)


def _events(data: bytes) -> list[bytes]:
    """The bytes, cut behind each event's end."""
    parts = data.split(EVENT_END)
    return [part + EVENT_END for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
