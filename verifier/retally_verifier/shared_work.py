"""Points judged by several processes of one verifier: the leader asks and records, workers judge."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address
from retally_verifier.judge_point import Outcome, PointJudge, Unjudgeable
from retally_verifier.point_stream import Entry, PointStream
from retally_verifier.point_work import PointTask
from retally_verifier.stopping import is_told_to_stop
from retally_verifier.task_wire import name_of, outcome_of_json, outcome_to_json, task_of_json, task_to_json

log = logging.getLogger(__name__)

#: A point that so many deliveries did not survive is given up: it may be what kills the workers.
MOST_DELIVERIES = 4
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 1.0


class SharedWork:
    """The leader's side."""

    def __init__(self, stream: PointStream, wait_seconds: float) -> None:
        self._stream = stream
        self._wait_seconds = wait_seconds

    async def judged(
        self, tasks: Sequence[PointTask], last: Collection[Address]
    ) -> AsyncIterator[tuple[PointTask, Outcome | Exception]]:
        """What workers have done, until they do nothing more for a while; the rest comes in a later call."""
        waiting = {name_of(task.id): task for task in tasks}
        await self._stream.forget_others(waiting)
        await self._stream.ask({name: task_to_json(task, last) for name, task in waiting.items()})
        deadline = time.monotonic() + self._wait_seconds
        while waiting and time.monotonic() < deadline:
            results = await self._stream.results(list(waiting))
            for name, result in results.items():
                yield waiting.pop(name), outcome_of_json(result)
                deadline = time.monotonic() + self._wait_seconds
            if not results:
                await asyncio.sleep(PAUSE_SECONDS)

    async def recorded(self, task: PointTask) -> None:
        """Lets its result go."""
        await self._stream.forget(name_of(task.id))


class Worker:
    """Takes points and hands results in, so many at a time."""

    def __init__(
        self, stream: PointStream, judge: PointJudge, domain: Domain, name: str, *, at_once: int, idle_seconds: float
    ) -> None:
        self._stream = stream
        self._judge = judge
        self._domain = domain
        self._name = name
        self._at_once = at_once
        self._idle_seconds = idle_seconds
        self._running: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            # redis-py was seen to swallow a cancellation, with an error and without.
            while not is_told_to_stop():
                try:
                    await self._round()
                except (RedisError, OSError) as error:
                    if not is_told_to_stop():
                        log.warning("worker %s: %s", self._name, error)
                        await asyncio.sleep(RETRY_SECONDS)
            raise asyncio.CancelledError
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            with suppress(RedisError, OSError):
                await self._stream.leave(self._name)

    async def _round(self) -> None:
        free = self._at_once - len(self._running)
        if free == 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return
        entries = await self._stream.take(
            self._name, free, idle_seconds=self._idle_seconds, wait_seconds=RETRY_SECONDS / 2
        )
        # A late heartbeat lets this worker claim what it is at itself: to wait for that would be to wait for itself.
        entries = [entry for entry in entries if entry.name not in self._under_way]
        if entries and entries[0].deliveries > 1:
            # Alone: if it kills this worker too, no other point is counted as what did it.
            await asyncio.gather(*self._running)
            await self._one(entries[0])
            return
        for entry in entries:
            task = asyncio.create_task(self._one(entry))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _one(self, entry: Entry) -> None:
        self._under_way.add(entry.name)
        try:
            if not await self._stream.is_open(entry):
                await self._stream.drop(entry)
            elif entry.deliveries > MOST_DELIVERIES:
                log.error("point %s is given up after %d deliveries", entry.name, MOST_DELIVERIES)
                reason = f"{MOST_DELIVERIES} workers did not survive judging it, or failed at it"
                await self._stream.give(entry, outcome_to_json(Unjudgeable(reason)))
            else:
                await self._stream.give(entry, outcome_to_json(await self._judged(entry)))
        except Exception:  # it stays with this worker until it has idled, then somebody tries again
            log.exception("point %s can't be judged", entry.name)
        finally:
            self._under_way.discard(entry.name)

    async def _judged(self, entry: Entry) -> Outcome:
        task, last = task_of_json(entry.task, self._domain)
        beating = asyncio.create_task(self._beat(entry))
        try:
            return await self._judge.judge(task.context, task.seed, last)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, entry: Entry) -> None:
        while not is_told_to_stop():
            await asyncio.sleep(self._idle_seconds / 3)
            with suppress(RedisError, OSError):
                await self._stream.keep(self._name, entry)
