"""The time that a node has for its first frame: it stands still while the store is waited for, which has its own."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self


class NodeTime:
    """As `asyncio.timeout`, but for what others take of it.

    Its timer is not moved whenever it stands still, which is several times a job: it looks when it is over whether it
    did, and then goes on for as long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = _Stopped(self)
        self._waits = 0
        self._since = 0.0
        #: How long it stood still since the timer was set.
        self._waited = 0.0
        #: What is left, once the timer was over while it stood still.
        self._left: float | None = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._set(self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._left = None
        await self._limit.__aexit__(kind, error, trace)

    def stopped(self) -> AbstractContextManager[None]:
        """While the store is asked; where two nodes race, until both have what they asked it for."""
        return self._stopped

    def stop(self) -> None:
        """Somebody begins to wait for the store."""
        if not self._waits:
            self._since = asyncio.get_running_loop().time()
        self._waits += 1

    def go_on(self) -> None:
        """Somebody has what it asked the store for."""
        self._waits -= 1
        if self._waits:
            return
        if self._left is not None:
            self._set(self._left)
        else:
            self._waited += asyncio.get_running_loop().time() - self._since

    def _set(self, seconds: float) -> None:
        self._waited, self._left = 0.0, None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._waits:
            self._left = self._waited + now - self._since
        elif self._waited:
            self._set(self._waited)
        else:
            self._limit.reschedule(now)


class _Stopped:
    """It stands still while this is entered, however often."""

    def __init__(self, limit: NodeTime) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        self._limit.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.go_on()
