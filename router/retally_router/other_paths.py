"""What goes to the hot path by way of something else: /v1/responses and repeatable requests. All else is the app's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import structlog

from retally.errors import BadRequest, RetallyError, Unavailable
from retally_router.asgi_sink import read_body
from retally_router.begun_job import Repeatable
from retally_router.hot_path import ENDPOINTS, REPEATABLE, HotPath
from retally_router.idempotency import LARGEST_ANSWER, Claim, IdempotentAnswers, StoredAnswer, key_of_header
from retally_router.responses_path import RESPONSES, ResponsesPath, first_then, send_error, with_body
from retally_router.sink import ClientGone, Message, Receive, Scope, Send
from retally_router.store_errors import StoreError

# Enough of an answer's end to see whether it ended well: a last event with its receipts.
LAST_BYTES = 256 * 1024
IDEMPOTENCY_KEY = b"idempotency-key"
REPLAYED = (b"idempotent-replayed", b"true")

log = structlog.get_logger(__name__)


def is_plain(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the hot path may take a completion straight from the server."""
    return IDEMPOTENCY_KEY not in headers


class OtherPaths:
    """An ASGI callable in front of the app."""

    def __init__(self, hot: HotPath, answers: IdempotentAnswers, rest: Any, *, max_body: int, seconds: float) -> None:
        self._hot = hot
        self._answers = answers
        self._rest = rest
        self._max_body = max_body
        self._seconds = seconds
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's lifespan."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if not is_post or (scope["path"] != RESPONSES and scope["path"] not in ENDPOINTS):
            await self._rest(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await read_body(receive, scope, self._max_body)
            key = dict(scope["headers"]).get(IDEMPOTENCY_KEY)
            if key is None:
                await self._serve(scope, body, receive, send)
            else:
                await self._serve_once(scope, body, key_of_header(key), send)
        except RetallyError as error:
            await send_error(send, error)
        except StoreError as error:
            await send_error(send, Unavailable(f"the router's store does not answer: {error}"))
        except TimeoutError:
            late = f"the request's body did not come within {self._seconds:g} s"
            await send_error(send, BadRequest(late, code="body_too_slow", hint="send the request again"))
        except ClientGone:
            return

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        if scope["path"] == RESPONSES:
            await ResponsesPath(self._chat)(scope, body, receive, send)
        else:
            await self._chat(with_body(scope, scope["path"], body), first_then(body, receive), send)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))

        async def send_once(message: Message) -> None:
            # Whoever passed the request on to here names it, whether or not the hot path did.
            if message["type"] == "http.response.start":
                headers = [header for header in message["headers"] if header[0] != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._hot(scope, receive, send_once, request_id)

    async def _serve_once(self, scope: Scope, body: bytes, key: bytes, send: Send) -> None:
        headers = dict(scope["headers"])
        credential = headers.get(b"authorization", b"")
        if b"x-retally-authorization" in headers or not credential:
            message = "an Idempotency-Key goes with an API key"
            hint = "a signed request is repeatable by its nonce already"
            raise BadRequest(message, param="Idempotency-Key", hint=hint)
        found = await self._answers.claim(credential, key, scope["path"].encode(), body)
        if isinstance(found, StoredAnswer):
            start = {"status": found.status, "headers": [*found.headers, REPLAYED]}
            await send({"type": "http.response.start", **start})
            await send({"type": "http.response.body", "body": found.body})
            return
        # A client that is lost gets the answer when it asks again: so it is made to its end without it.
        work = asyncio.create_task(self._make(found, scope, body, send))
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        await asyncio.shield(work)

    async def _make(self, claim: Claim, scope: Scope, body: bytes, send: Send) -> None:
        again = Repeatable(None, partial(self._answers.begin, claim))
        recorder = _Recorder(send, partial(self._finish, claim, again), self._seconds / 2)
        renewing = asyncio.create_task(self._answers.renew(claim))
        try:
            again.begun = await self._answers.begun(claim)
            await self._serve({**scope, REPEATABLE: again}, body, _never, recorder.send)
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            if not recorder.whole:
                await self._give_up(claim, again)

    async def _give_up(self, claim: Claim, again: Repeatable) -> None:
        if again.noted:
            # Made here, and told how it ended: only another router's end is a riddle.
            await self._answers.forget(claim)
        await self._answers.give_up(claim)

    async def _finish(self, claim: Claim, again: Repeatable, answer: StoredAnswer | None) -> None:
        if answer is None:
            await self._give_up(claim, again)
            return
        try:
            await self._answers.keep(claim, answer)
        except StoreError as error:
            # The client has its answer; only a repetition would be made anew, once the claim ends.
            log.warning("answer_not_kept", error=str(error))


class _Recorder:
    """Passes an answer on and remembers it, also when nobody takes it any more."""

    def __init__(
        self, send: Send, before_end: Callable[[StoredAnswer | None], Awaitable[None]], seconds: float
    ) -> None:
        self._send = send
        self._seconds = seconds
        self._size, self._last = 0, b""
        self._before_end = before_end
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._gone = False
        self.whole = False

    async def send(self, message: Message) -> None:
        """One message of the answer; its last bytes leave once it is kept, so that a repetition finds it."""
        if message["type"] == "http.response.start":
            self._start = dict(message)
        else:
            self._keep(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        if self.whole:
            await self._before_end(self.answer())
        if not self._gone:
            try:
                # Sooner than the server gives a client up: the answer is made to its end without it.
                async with asyncio.timeout(self._seconds):
                    await self._send(message)
            except (OSError, ClientGone, TimeoutError):
                self._gone = True

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        self._last = (self._last + part)[-LAST_BYTES:]
        if self._size <= LARGEST_ANSWER:
            self._parts.append(part)
        else:
            self._parts.clear()

    def answer(self) -> StoredAnswer | None:
        """The answer, if it is whole and was made: errors, also in mid-stream, are not kept."""
        if not self.whole or self._start.get("status") != 200 or _broke_off(self._start, self._last):
            return None
        body = b"".join(self._parts) if self._size <= LARGEST_ANSWER else None
        return StoredAnswer(200, list(self._start["headers"]), body)


def _broke_off(start: Message, body: bytes) -> bool:
    kind = dict(start["headers"]).get(b"content-type", b"")
    if not kind.startswith(b"text/event-stream"):
        return False
    last = body.rstrip().rpartition(b"\n\n")[2]
    return last != b"data: [DONE]" and not last.startswith(
        (b"event: response.completed", b"event: response.incomplete")
    )


async def _never() -> Message:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # nothing ever comes
