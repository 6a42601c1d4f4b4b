"""One call, one job: a caller that asks again for what it asked for already gets that answer, and pays once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from retally.errors import BadRequest, Conflict

MOST_CALLS = 256
MOST_BYTES = 64 << 20
KEPT_SECONDS = 600.0
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it may be given again; a stream is there once."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    stream: httpx2.Response | None = None
    #: Whether a job was signed for it: asking anew would be another one.
    signed: bool = False


@dataclass(slots=True)
class _Call:
    digest: bytes
    task: asyncio.Task[Answer]
    at: float = field(default_factory=time.monotonic)


class CallOnce:
    """Calls that run or have ended lately, by what makes them the same."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._running: set[asyncio.Task[Answer]] = set()

    async def run(
        self, name: str, digest: bytes, work: Callable[[], Coroutine[Any, Any, Answer]], *, repeats: bool
    ) -> Answer:
        """The call's answer; `repeats` says that it may be one that was made before.

        Raises BadRequest where the name was another request's, Conflict where its answer is a stream that has begun.
        """
        self._forget()
        known = self._calls.get(name) if repeats else None
        if known is None:
            return await asyncio.shield(self._start(name, digest, work))
        if known.digest != digest:
            hint = "use a fresh key for another request"
            message = "this Idempotency-Key was another request's"
            raise BadRequest(message, param="Idempotency-Key", code="idempotency_key_reused", hint=hint)
        answer = await asyncio.shield(known.task)
        if answer.stream is not None:
            hint = "`retally jobs` shows it; ask anew without the key, which is another paid job"
            raise Conflict("this call's stream has begun already", code="stream_begun", hint=hint)
        return answer

    async def close(self) -> None:
        """Lets what runs end, so that it is booked."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _start(self, name: str, digest: bytes, work: Callable[[], Coroutine[Any, Any, Answer]]) -> asyncio.Task[Answer]:
        # A task of its own: a caller that hangs up must not leave a job that nobody knows how it ended.
        call = _Call(digest, asyncio.create_task(work()))
        self._calls[name] = call
        self._calls.move_to_end(name)
        self._running.add(call.task)

        def ended(task: asyncio.Task[Answer]) -> None:
            self._running.discard(task)
            call.at = time.monotonic()
            # What was refused before a job was signed may be asked for anew.
            kept = not task.cancelled() and task.exception() is None and task.result().signed
            if not kept and self._calls.get(name) is call:
                del self._calls[name]

        call.task.add_done_callback(ended)
        return call.task

    def _forget(self) -> None:
        """Drops the oldest ended ones: by age, by number, by what they take."""
        done = [(name, call) for name, call in self._calls.items() if call.task.done() and not call.task.cancelled()]
        size = sum(len(call.task.result().content) for _, call in done)
        number, oldest = len(self._calls), time.monotonic() - KEPT_SECONDS
        for name, call in done:
            if number < MOST_CALLS and size <= MOST_BYTES and call.at > oldest:
                return
            number, size = number - 1, size - len(call.task.result().content)
            del self._calls[name]
