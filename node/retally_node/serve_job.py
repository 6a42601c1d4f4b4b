"""Serve an admitted job: one engine request a choice, one stream of frames, one receipt a choice and segment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from retally.errors import RetallyError
from retally.protocol.receipt import FinishReason
from retally_node.admission import AdmittedJob
from retally_node.room import ServingRoom
from retally_node.segment import Frame, SegmentRun, SegmentWork

log = logging.getLogger(__name__)


class RunningJob:
    """A job whose choices decode in tasks of their own, so that its receipts close whoever leaves."""

    def __init__(self, job: AdmittedJob, work: SegmentWork, room: ServingRoom) -> None:
        self.job = job
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._room = room
        self._runs = {
            segment.key.choice: SegmentRun(job, segment, work, self._frames.put_nowait) for segment in job.segments
        }
        self._tasks = [asyncio.create_task(self._run(run)) for run in self._runs.values()]

    async def _run(self, run: SegmentRun) -> None:
        try:
            await run.run(self._room.turns)
        finally:
            self._room.leave()
            if not run.ended:
                run.abandon()

    async def frames(self) -> AsyncIterator[Frame]:
        """Frames of all choices until each is closed; after a failure the others are moved too."""
        left = len(self._runs)
        while left:
            frame = await self._frames.get()
            left -= frame.last
            if frame.error is not None:
                self.stop(FinishReason.MOVED)
            yield frame

    def delivered(self, frame: Frame) -> None:
        """A frame has left towards the client."""
        self._runs[frame.choice].delivered(frame)

    def stop(self, reason: FinishReason) -> None:
        """End every choice at what was delivered."""
        for run in self._runs.values():
            run.stop(reason)

    async def closed(self) -> None:
        """Return once every receipt is written; raise what went wrong with the books."""
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, RetallyError):
                raise outcome


class JobServer:
    """Starts jobs, knows the running ones and ends them at shutdown."""

    def __init__(self, work: SegmentWork, room: ServingRoom) -> None:
        self._work = work
        self.room = room
        self._running: set[RunningJob] = set()
        self._watches: set[asyncio.Task[None]] = set()

    def start(self, job: AdmittedJob) -> RunningJob:
        """Begin to decode an admitted job."""
        running = RunningJob(job, self._work, self.room)
        self._running.add(running)
        watch = asyncio.create_task(running.closed())
        self._watches.add(watch)
        watch.add_done_callback(lambda done: self._forget(running, done))
        return running

    def _forget(self, running: RunningJob, watch: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._watches.discard(watch)
        if not watch.cancelled() and watch.exception() is not None:
            log.error("a job did not close its books", exc_info=watch.exception())

    async def shutdown(self) -> None:
        """Close every stream as moved, so that another node can go on."""
        running = list(self._running)
        for job in running:
            job.stop(FinishReason.MOVED)
        await asyncio.gather(*(job.closed() for job in running))
