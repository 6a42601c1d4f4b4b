"""Run one submission: admit it, serve it, and hand back what HTTP shall send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse

from retally.errors import DuplicateJob, RetallyError, UpstreamTimeout
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

IsGone = Callable[[], Awaitable[bool]]


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


async def run_job(node: Node, submission: JobSubmission, is_gone: IsGone) -> Any:
    """The response to a submission."""
    try:
        job = await node.admission.admit(submission)
    except RetallyError as error:
        node.metrics.jobs.labels(error.code).inc()
        raise
    node.metrics.jobs.labels("admitted").inc()
    source, scores = await _begin(node, job, is_gone)
    writer = AnswerWriter(job.record, submission.options, node.chat_format, node.model_name, node.address)
    if submission.stream:
        return await _stream(source, writer, is_gone)
    return await _plain(source, writer, scores, is_gone)


async def _begin(node: Node, job: AdmittedJob | StoredAnswer, is_gone: IsGone) -> tuple[FrameSource, Scores | None]:
    scored = job.record.params.prompt_logprobs > 0
    if isinstance(job, StoredAnswer):
        if scored:
            # Scores are not kept; a scoring job is asked for again with a new nonce.
            raise DuplicateJob("0x" + job.record.job_id.hex())
        return _Stored(stored_frames(job, node.chat_format)), None
    try:
        scores = await _scores(node, job, is_gone) if scored else None
    except BaseException:
        # Nothing was delivered, so closing bills nothing. Whatever went wrong, the job holds room and credit.
        failed = node.server.start(job)
        failed.stop(FinishReason.MOVED)
        await failed.closed()
        raise
    return _Live(node.server.start(job)), scores


async def _scores(node: Node, job: AdmittedJob, is_gone: IsGone) -> Scores | None:
    """A scoring job's scores; the engine's work ends with the client's wish for them."""
    scoring = asyncio.create_task(score_prompt(node.engine, job.record))
    await _watch(scoring, scoring.cancel, is_gone)
    if scoring.cancelled():
        raise UpstreamTimeout("the client left")
    return scoring.result()


async def _stream(source: FrameSource, writer: AnswerWriter, is_gone: IsGone) -> JobStream:
    frames = source.frames()
    # It may be long in coming: the job waits for its turn and for its prefill.
    coming = asyncio.ensure_future(anext(frames))
    await _watch(coming, source.leave, is_gone)
    first = coming.result()
    if first.error is not None:
        async for _ in frames:
            continue
        raise first.error
    return JobStream(source, writer, first, frames)


async def _plain(source: FrameSource, writer: AnswerWriter, scores: Scores | None, is_gone: IsGone) -> JSONResponse:
    gathering = asyncio.create_task(_gather(source, writer))
    await _watch(gathering, source.leave, is_gone)
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


async def _watch(work: asyncio.Future[Any], leave: Callable[[], object], is_gone: IsGone) -> None:
    """Wait until work is done; once nobody waits for it any more, `leave` brings its end."""
    try:
        while not work.done():
            await asyncio.wait((work,), timeout=POLL_SECONDS)
            if not work.done() and await is_gone():
                leave()
    except BaseException:
        leave()
        raise
