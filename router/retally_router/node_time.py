"""The time that a node has for its first frame: it stands still while the store is waited for, which has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class NodeTime:
    """As `asyncio.timeout`, but for what others take of it."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._limit = asyncio.timeout(seconds)
        self._waits = 0

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._limit.__aexit__(kind, error, trace)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While the store is asked; where two nodes race, until both have what they asked it for."""
        loop = asyncio.get_running_loop()
        ends = self._limit.when()
        if not self._waits and ends is not None and not self._limit.expired():
            self._left = ends - loop.time()
            self._limit.reschedule(None)
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits and not self._limit.expired():
                self._limit.reschedule(loop.time() + self._left)
