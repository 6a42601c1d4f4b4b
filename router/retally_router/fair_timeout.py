"""A time limit that does not take this router's own slowness for another's."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

LOOKS = 4
PAUSE_SECONDS = 0.05


class FairTimeout:
    """As `asyncio.timeout`, but what has arrived is read first.

    A busy loop runs its timers before it reads: when a limit has passed, the answer may be here already. So the loop
    gets a few turns more before the wait ends with TimeoutError.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._looks = LOOKS
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looks -= 1
        if self._looks:
            self._timer = loop.call_later(PAUSE_SECONDS, self._look)
        else:
            self._limit.reschedule(loop.time())
