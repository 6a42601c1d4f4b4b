"""A second node for a job that the first keeps waiting: before its first frame only, one a job, few of all jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from retally.errors import RetallyError

T = TypeVar("T")

#: A first token is late after so many times what was predicted, and never before so long.
LATE_TIMES = 3.0
LEAST_SECONDS = 0.3
#: What was not spent is kept for a burst of so many hedges.
BURST = 3.0


@dataclass(slots=True)
class HedgeBudget:
    """Every job earns a small share of a hedge."""

    share: float
    saved: float = 0.0

    def earn(self) -> None:
        """One more job."""
        self.saved = min(BURST, self.saved + self.share)

    def take(self) -> bool:
        """Whether one more hedge is paid for; it counts from here."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True

    def give_back(self) -> None:
        """One came to nothing, and no node had any of it."""
        self.saved = min(BURST, self.saved + 1.0)


def late_after(predicted_seconds: float) -> float:
    """How long a first token is waited for before another node is asked too."""
    return max(LEAST_SECONDS, LATE_TIMES * predicted_seconds)


class Race(Generic[T]):
    """One attempt, and another beside it if it is late; the first with a result wins, the other is cancelled."""

    def __init__(self, lost: Callable[[T], None]) -> None:
        self._lost = lost
        self._tasks: list[asyncio.Task[T]] = []

    async def run(
        self, first: Coroutine[Any, Any, T], second: Callable[[], Coroutine[Any, Any, T] | None], wait_seconds: float
    ) -> T:
        """The winner's result; raises the last error if none has one. `second` is asked only when the first is late."""
        self._tasks.append(asyncio.create_task(first))
        try:
            await asyncio.wait(self._tasks, timeout=wait_seconds)
            if not self._tasks[0].done() and (other := second()) is not None:
                self._tasks.append(asyncio.create_task(other))
            won = await self._winner()
        except BaseException:
            await self._leave()
            raise
        try:
            await self._leave()
        except BaseException:
            # Who waited has left in the meantime: nobody takes the winner up any more.
            self._lost(won)
            raise
        return won

    async def _winner(self) -> T:
        running = set(self._tasks)
        while True:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            last: BaseException | None = None
            # Where both have come at once, the first is kept.
            for task in sorted(done, key=self._tasks.index):
                last = task.exception()
                if last is None:
                    self._tasks.remove(task)
                    return task.result()
                if not isinstance(last, RetallyError):
                    raise last
            if last is not None and not running:
                raise last

    async def _leave(self) -> None:
        for task in self._tasks:
            # Not after the wait for it, which whoever waits may leave.
            task.add_done_callback(self._hand_back)
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _hand_back(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._lost(task.result())
