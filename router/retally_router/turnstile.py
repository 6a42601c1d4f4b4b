"""Spreads a rush of requests over turns of the loop."""

from __future__ import annotations

import asyncio
from collections import deque

#: Beginning one costs about a millisecond: no turn may take long, since leases, polls and streams wait for its end.
MOST_A_TURN = 16


class Turnstile:
    """Lets so many pass in one turn of the loop, the others in the next ones, in order; nobody holds it for others."""

    def __init__(self, most: int = MOST_A_TURN) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    async def enter(self) -> None:
        """Passes, in this turn or in a later one."""
        loop = asyncio.get_running_loop()
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _turn(self) -> None:
        self._left = self._most
        while self._left and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._left -= 1
                waiter.set_result(None)
        self._is_due = bool(self._waiting)
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._turn)
