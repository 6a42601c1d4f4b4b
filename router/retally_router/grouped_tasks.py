"""Background tasks by group and name: at most one runs under each, and who wants to wait for a group finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class GroupedTasks:
    """Tasks until they end; how one ended that nobody foresaw is logged."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, asyncio.Task[None]]] = {}

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter([task for group in self._groups.values() for task in group.values()])

    def of(self, group: str) -> list[asyncio.Task[None]]:
        """What runs in that group."""
        return list(self._groups.get(group, {}).values())

    def names(self, group: str) -> list[str]:
        """Their names."""
        return list(self._groups.get(group, {}))

    def has(self, group: str, name: str) -> bool:
        """Whether that one runs."""
        return name in self._groups.get(group, {})

    def start(self, group: str, name: str, work: Coroutine[None, None, None]) -> None:
        """Begins it, unless one of that name runs already."""
        if self.has(group, name):
            work.close()
            return
        task = asyncio.create_task(work)
        self._groups.setdefault(group, {})[name] = task
        task.add_done_callback(lambda _: self._forget(group, name))
        task.add_done_callback(log_failure)

    def _forget(self, group: str, name: str) -> None:
        tasks = self._groups[group]
        del tasks[name]
        if not tasks:
            del self._groups[group]


def log_failure(task: asyncio.Task[None]) -> None:
    """Says so when background work ends in a way nobody foresaw."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background_work_failed", exc_info=error)


def look_at(work: asyncio.Task[Any]) -> None:
    """Whoever still waits hears of a failure; nobody may be left to."""
    if not work.cancelled():
        work.exception()
