"""Run one submission: admit it, serve it, and hand back what HTTP shall send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse

from retally.errors import DuplicateJob, RetallyError
from retally.inference.engine import Scores
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import JobSubmission
from retally_node.admission import AdmittedJob, StoredAnswer
from retally_node.answer import AnswerWriter, stored_frames
from retally_node.job_response import FrameSource, JobStream
from retally_node.node import Node
from retally_node.score_job import score_prompt
from retally_node.segment import Frame
from retally_node.serve_job import RunningJob

POLL_SECONDS = 0.5


class _Live:
    """A running job as a source of frames."""

    def __init__(self, running: RunningJob) -> None:
        self._running = running

    def frames(self) -> AsyncIterator[Frame]:
        return self._running.frames()

    def delivered(self, frame: Frame) -> None:
        self._running.delivered(frame)

    def leave(self) -> None:
        self._running.stop(FinishReason.CANCELLED)


class _Stored:
    """An answer given before as a source of frames."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames

    async def frames(self) -> AsyncIterator[Frame]:
        for frame in self._frames:
            yield frame

    def delivered(self, frame: Frame) -> None:
        """Nothing is counted twice."""

    def leave(self) -> None:
        """Nothing runs."""


async def run_job(node: Node, submission: JobSubmission, is_gone: Callable[[], Awaitable[bool]]) -> Any:
    """The response to a submission."""
    try:
        job = await node.admission.admit(submission)
    except RetallyError as error:
        node.metrics.jobs.labels(error.code).inc()
        raise
    node.metrics.jobs.labels("admitted").inc()
    source, scores = await _begin(node, job)
    writer = AnswerWriter(job.record, submission.options, node.chat_format, node.model_name, node.address)
    if submission.stream:
        return await _stream(source, writer)
    return await _plain(source, writer, scores, is_gone)


async def _begin(node: Node, job: AdmittedJob | StoredAnswer) -> tuple[FrameSource, Scores | None]:
    scored = job.record.params.prompt_logprobs > 0
    if isinstance(job, StoredAnswer):
        if scored:
            # Scores are not kept; a scoring job is asked for again with a new nonce.
            raise DuplicateJob("0x" + job.record.job_id.hex())
        return _Stored(stored_frames(job, node.chat_format)), None
    try:
        scores = await score_prompt(node.engine, job.record) if scored else None
    except RetallyError:
        # Nothing was delivered, so closing bills nothing.
        failed = node.server.start(job)
        failed.stop(FinishReason.MOVED)
        await failed.closed()
        raise
    return _Live(node.server.start(job)), scores


async def _stream(source: FrameSource, writer: AnswerWriter) -> JobStream:
    frames = source.frames()
    first = await anext(frames)
    if first.error is not None:
        async for _ in frames:
            continue
        raise first.error
    return JobStream(source, writer, first, frames)


async def _plain(
    source: FrameSource, writer: AnswerWriter, scores: Scores | None, is_gone: Callable[[], Awaitable[bool]]
) -> JSONResponse:
    gathering = asyncio.create_task(_gather(source, writer))
    while not gathering.done():
        await asyncio.wait((gathering,), timeout=POLL_SECONDS)
        if not gathering.done() and await is_gone():
            source.leave()
    error = gathering.result()
    if error is not None:
        raise error
    return JSONResponse(writer.whole(scores))


async def _gather(source: FrameSource, writer: AnswerWriter) -> RetallyError | None:
    error: RetallyError | None = None
    async for frame in source.frames():
        writer.note(frame)
        error = error or frame.error
    return error
