"""Who judges the points of commits: this process, so many at a time, or others with it (`shared_work`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from retally.protocol.answer import AnswerContext
from retally.protocol.encoding import Address
from retally_verifier.judge_point import Outcome, PointJudge

log = logging.getLogger(__name__)

#: A commit's id, the index of a range and the number of a point in it.
PointId = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PointTask:
    """One drawn point that is to be judged."""

    context: AnswerContext
    seed: bytes

    @property
    def id(self) -> PointId:
        """What names it."""
        return self.context.commit.id, self.context.point.range_index, self.context.point.k


class PointWork(Protocol):
    """Has points judged."""

    def judged(
        self, tasks: Sequence[PointTask], last: Collection[Address]
    ) -> AsyncIterator[tuple[PointTask, Outcome | Exception]]:
        """What came of those that are done, each as soon as it is; others come in a later call."""
        ...

    async def recorded(self, task: PointTask) -> None:
        """The books hold this point's finding, or it is to be judged anew."""
        ...


class LocalWork:
    """Judges in this process."""

    def __init__(self, judge: PointJudge, at_once: int) -> None:
        self._judge = judge
        self._at_once = at_once

    async def judged(
        self, tasks: Sequence[PointTask], last: Collection[Address]
    ) -> AsyncIterator[tuple[PointTask, Outcome | Exception]]:
        """All of them, so many at a time."""
        gate = asyncio.Semaphore(self._at_once)

        async def one(task: PointTask) -> tuple[PointTask, Outcome | Exception]:
            async with gate:
                try:
                    return task, await self._judge.judge(task.context, task.seed, last)
                except Exception as error:  # noqa: BLE001  # one point that can't be judged must not shield the others
                    return task, error

        running = [asyncio.create_task(one(task)) for task in tasks]
        try:
            for done in asyncio.as_completed(running):
                yield await done
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def recorded(self, task: PointTask) -> None:
        """Nothing is kept here."""
