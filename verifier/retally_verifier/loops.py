"""Background steps, each repeated; a failed one is named and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx

from retally.errors import RetallyError

log = logging.getLogger(__name__)


class Loops:
    """Runs steps one after the other, for ever."""

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._steps: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._problems: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Adds a step."""
        self._steps.append((name, step))

    def problems(self) -> dict[str, str]:
        """What failed last, by step."""
        return dict(self._problems)

    async def run_once(self) -> None:
        """One round of all steps."""
        for name, step in self._steps:
            try:
                await step()
            except (RetallyError, httpx.HTTPError, OSError) as error:
                if self._problems.get(name) != str(error):
                    log.warning("%s: %s", name, error)
                self._problems[name] = str(error)
            except Exception as error:  # a bug in one step must not end the others; it is logged with its trace
                log.exception("%s", name)
                self._problems[name] = f"{type(error).__name__}: {error}"
            else:
                self._problems.pop(name, None)

    async def _forever(self) -> None:
        while True:
            await self.run_once()
            await asyncio.sleep(self._poll_seconds)

    def start(self) -> None:
        """Starts the rounds."""
        self._task = asyncio.create_task(self._forever(), name="verifier-loops")

    async def close(self) -> None:
        """Stops after the current await."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def is_running(self) -> bool:
        """Whether the rounds go on; a bug that ends them must show in healthz."""
        return self._task is not None and not self._task.done()
