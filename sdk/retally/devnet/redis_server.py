"""A Redis of our own: loopback, append-only file on request, gone with the network."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service, ServiceFailed
from retally.devnet.tools import redis_server_path

_READY_SECONDS = 10.0
_POLL_SECONDS = 0.01


class RedisServer:
    """One redis-server process; with `durable` it keeps what it acknowledged across a crash."""

    def __init__(
        self, folder: Path, *, mark: str, port: int = 0, durable: bool = False, data: Path | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        data = data or folder / "redis"
        data.mkdir(parents=True, exist_ok=True)
        command = [str(redis_server_path()), "--bind", HOST, "--port", str(self.port), "--save", "", "--dir", str(data)]
        # A rewritten process title would overwrite the environment, by which the process is found again.
        command += ["--set-proc-title", "no"]
        if durable:
            command += ["--appendonly", "yes", "--appendfsync", "always"]
        self.service = Service("redis", command, folder / "redis.log", mark=mark)

    async def start(self) -> None:
        """Start the server and wait for its PONG."""
        self.service.start()
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.service.check_running()
            if await self._answers():
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise ServiceFailed("redis", f"did not answer within {_READY_SECONDS:.0f} s", self.service.log)

    async def stop(self) -> None:
        """End the server."""
        await self.service.stop()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            await writer.drain()
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()
            await writer.wait_closed()
