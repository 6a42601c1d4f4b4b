"""Background work: each loop is a step done again and again, and an error never ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from retally.errors import RetallyError

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]

MAX_PAUSE_SECONDS = 30.0
#: A case of many answers takes minutes to weigh; a step that takes longer hangs, and its loop does nothing.
LONGEST_STEP_SECONDS = 1800.0


class Loops:
    """The node's loops and what ails them."""

    def __init__(self, poll_seconds: float, longest_step_seconds: float = LONGEST_STEP_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self._longest_step_seconds = longest_step_seconds
        self._steps: dict[str, Step] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ailing: dict[str, str] = {}
        self._begun: dict[str, float] = {}

    def add(self, name: str, step: Step) -> None:
        """Add a loop before the start."""
        self._steps[name] = step

    def start(self) -> None:
        """Start all loops."""
        self._tasks = [asyncio.create_task(self._repeat(name, step), name=name) for name, step in self._steps.items()]

    async def stop(self) -> None:
        """Stop all loops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def ailing(self) -> dict[str, str]:
        """The last error of each loop that failed in its last round, and how long a round goes on that does not end."""
        now = time.monotonic()
        hung = {
            name: f"under way for {now - begun:.0f} s"
            for name, begun in self._begun.items()
            if now - begun > self._longest_step_seconds
        }
        return self._ailing | hung

    async def _repeat(self, name: str, step: Step) -> None:
        pause = self._poll_seconds
        while True:
            self._begun[name] = time.monotonic()
            try:
                await step()
                self._ailing.pop(name, None)
                pause = self._poll_seconds
            except RetallyError as error:
                pause = self._note(name, f"{error.code}: {error.message}", pause)
            except Exception as error:  # a bug in one round must not end the loop; it is logged with its trace
                log.exception("loop %s failed", name)
                pause = self._note(name, f"{type(error).__name__}: {error}", pause)
            del self._begun[name]
            await asyncio.sleep(pause)

    def _note(self, name: str, problem: str, pause: float) -> float:
        if self._ailing.get(name) != problem:
            log.warning("loop %s: %s", name, problem)
        self._ailing[name] = problem
        return min(2 * pause, MAX_PAUSE_SECONDS)
