"""Chain time: the latest block's timestamp plus the time since it was seen (R-5)."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from retally.chain.rpc import Rpc, RpcFailed
from retally.errors import ChainUnreachable

REFRESH_SECONDS = 2.0


class Clock(Protocol):
    """Whoever knows the chain's time."""

    def now(self) -> int:
        """Seconds of chain time."""
        ...


class ChainClock:
    """A clock that follows the chain's blocks."""

    def __init__(self, rpc: Rpc, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._rpc = rpc
        self._refresh_seconds = refresh_seconds
        self._timestamp: int | None = None
        self._block = 0
        self._seen = 0.0
        self._task: asyncio.Task[None] | None = None

    def now(self) -> int:
        """Seconds of chain time as of the last block seen."""
        if self._timestamp is None:
            raise ChainUnreachable("the chain's time is not known yet")
        return self._timestamp + int(time.monotonic() - self._seen)

    @property
    def block(self) -> int:
        """Number of the last block seen."""
        return self._block

    async def refresh(self) -> int:
        """Reads the latest block and returns the time."""
        block = await self._rpc.request("eth_getBlockByNumber", "latest", False)
        try:
            number, timestamp = int(block["number"], 16), int(block["timestamp"], 16)
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self._rpc.host} shows no latest block: {str(block)[:80]}") from error
        if (number, timestamp) != (self._block, self._timestamp):
            self._block, self._timestamp, self._seen = number, timestamp, time.monotonic()
        return self.now()

    async def start(self) -> None:
        """Reads the time once and keeps following it."""
        await self.refresh()
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="chain-clock")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            try:
                await self.refresh()
            except (ChainUnreachable, RpcFailed):
                # Time goes on by the monotonic clock; the next round asks again.
                continue

    async def close(self) -> None:
        """Stops following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
