"""A worker that is told to stop ends, whatever its store makes of that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeout
from tests.unit.test_verifier_shared_work import WAIT_SECONDS, lines, tasks, until
from tests.verifier_worker import DOMAIN, VERIFIER, WritingJudge

from retally_verifier.point_stream import Entry, PointStream
from retally_verifier.shared_work import Worker
from retally_verifier.task_wire import name_of, task_to_json


class Swallowing(PointStream):
    """Tells an error where it was cancelled, as a client may whose own time ran out just then; or nothing at all."""

    is_silent = False

    async def take(self, consumer: str, count: int, *, idle_seconds: float, wait_seconds: float) -> list[Entry]:
        for _ in range(2):
            taken = await super().take(consumer, count, idle_seconds=idle_seconds, wait_seconds=0.01)
            if taken:
                return taken
        return await self._told()

    async def keep(self, consumer: str, entry: Entry) -> None:
        await self._told()

    async def _told(self) -> Any:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError as error:
            if self.is_silent:
                return []
            raise RedisTimeout("too late") from error


@pytest.mark.parametrize("is_silent", [False, True])
async def test_ends_also_where_the_store_hides_that_it_was_told_to(
    redis: Redis, tmp_path: Path, is_silent: bool
) -> None:
    (tmp_path / "hang").touch()
    stream = Swallowing(redis, VERIFIER)
    stream.is_silent = is_silent
    await stream.ask({name_of(task.id): task_to_json(task, ()) for task in tasks()[:1]})
    worker = Worker(stream, WritingJudge(tmp_path, "one"), DOMAIN, "one", at_once=3, idle_seconds=0.3)
    running = asyncio.create_task(worker.run())
    await until(lambda: len(lines(tmp_path)) == 1)
    # Its heartbeat hangs in the store as well by then.
    await asyncio.sleep(0.3)
    running.cancel()
    done, _ = await asyncio.wait((running,), timeout=WAIT_SECONDS)
    assert done == {running}
    assert running.cancelled()
