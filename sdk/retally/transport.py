"""Between the `openai` client and the network: completions are paid, counted and checked, all else passes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import httpx2

from retally.ask import PATHS, Ask
from retally.http_steps import HttpAnswer, HttpCall, Pause, Steps, Unreachable
from retally.job_result import JobResult

T = TypeVar("T")
EXTENSION = "retally"
_DROPPED_HEADERS = frozenset({"host", "content-length", "accept-encoding", "transfer-encoding", "connection"})


class Call(Protocol):
    """One completion from request to receipt, without any input or output of its own."""

    result: JobResult

    def open(self) -> Steps[HttpAnswer]:
        """Sends the request."""
        ...

    def feed(self, piece: bytes) -> Steps[None]:
        """Takes streamed bytes before the caller sees them."""
        ...

    def finish(self, body: bytes | None) -> Steps[None]:
        """Takes a plain answer, or the end of a stream."""
        ...

    def cancel(self) -> None:
        """Takes note that nobody reads on."""
        ...


CallFactory = Callable[[Ask, Mapping[str, str]], Call]


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A completion request of the `openai` client, and how to reach the router it is for."""

    request: httpx2.Request
    path: str

    @property
    def root(self) -> str:
        return str(self.request.url.copy_with(query=None)).removesuffix(self.path)

    @property
    def headers(self) -> dict[str, str]:
        return {name: value for name, value in self.request.headers.items() if name.lower() not in _DROPPED_HEADERS}

    def request_for(self, call: HttpCall) -> httpx2.Request:
        headers = {"accept-encoding": "identity", "content-type": "application/json", **call.headers}
        url = self.root + call.path
        timeout = {"timeout": self.request.extensions.get("timeout", {})}
        return httpx2.Request(call.method, url, headers=headers, content=call.body or None, extensions=timeout)

    def response_for(self, answer: HttpAnswer, result: JobResult) -> httpx2.Response:
        extensions = {**answer.response.extensions, EXTENSION: result}
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body, extensions=extensions)

    def streamed_response(
        self, answer: HttpAnswer, result: JobResult, stream: _MeteredStream | _AsyncMeteredStream
    ) -> httpx2.Response:
        extensions = {**answer.response.extensions, EXTENSION: result}
        return httpx2.Response(answer.status, headers=answer.headers, stream=stream, extensions=extensions)


def _exchange_of(request: httpx2.Request) -> _Exchange | None:
    if request.method != "POST":
        return None
    path = next((path for path in PATHS if request.url.path.endswith(path)), None)
    return None if path is None else _Exchange(request, path)


def _cause(error: Unreachable) -> BaseException:
    # The `openai` client knows httpx2's errors: it retries on them and names them.
    return error.__cause__ or error


class PaymentTransport(httpx2.BaseTransport):
    """The blocking transport."""

    def __init__(self, inner: httpx2.BaseTransport, new_call: CallFactory) -> None:
        self._inner = inner
        self._new_call = new_call

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request; completions go through a call."""
        exchange = _exchange_of(request)
        if exchange is None:
            return self._inner.handle_request(request)
        call = self._new_call(Ask.parse(exchange.path, request.read()), exchange.headers)

        def drive(steps: Steps[T]) -> T:
            return _drive(steps, self._inner, exchange)

        try:
            answer = drive(call.open())
            if answer.failed:
                return exchange.response_for(answer, call.result)
            if _is_stream(answer):
                stream = _MeteredStream(answer.response, call, drive)
                return exchange.streamed_response(answer, call.result, stream)
            drive(call.finish(answer.body))
            return exchange.response_for(answer, call.result)
        except Unreachable as error:
            call.cancel()
            raise _cause(error) from error
        except BaseException:
            # The voucher may have left: what becomes of the job is looked up before the next.
            call.cancel()
            raise

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()


class AsyncPaymentTransport(httpx2.AsyncBaseTransport):
    """The asynchronous transport."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, new_call: CallFactory) -> None:
        self._inner = inner
        self._new_call = new_call

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request; completions go through a call."""
        exchange = _exchange_of(request)
        if exchange is None:
            return await self._inner.handle_async_request(request)
        call = self._new_call(Ask.parse(exchange.path, await request.aread()), exchange.headers)
        try:
            answer = await _drive_async(call.open(), self._inner, exchange)
            if answer.failed:
                return exchange.response_for(answer, call.result)
            if _is_stream(answer):
                stream = _AsyncMeteredStream(answer.response, call, self._inner, exchange)
                return exchange.streamed_response(answer, call.result, stream)
            await _drive_async(call.finish(answer.body), self._inner, exchange)
            return exchange.response_for(answer, call.result)
        except Unreachable as error:
            call.cancel()
            raise _cause(error) from error
        except BaseException:
            # The voucher may have left: what becomes of the job is looked up before the next.
            call.cancel()
            raise

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()


class _MeteredStream(httpx2.SyncByteStream):
    def __init__(self, response: httpx2.Response, call: Call, drive: Callable[[Steps[None]], None]) -> None:
        self._response, self._call, self._drive = response, call, drive

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._response.iter_raw():
            # Counted and vouched for before the caller sees it: a caller that stops at [DONE] never asks for more.
            self._drive(self._call.feed(piece))
            yield piece
        self._drive(self._call.finish(None))

    def close(self) -> None:
        # Booked first, whatever happens then; a voucher that did not get through is sent once more.
        self._call.cancel()
        try:
            self._drive(self._call.finish(None))
        finally:
            self._response.close()


class _AsyncMeteredStream(httpx2.AsyncByteStream):
    def __init__(
        self, response: httpx2.Response, call: Call, inner: httpx2.AsyncBaseTransport, exchange: _Exchange
    ) -> None:
        self._response, self._call, self._inner, self._exchange = response, call, inner, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response.aiter_raw():
            await _drive_async(self._call.feed(piece), self._inner, self._exchange)
            yield piece
        await _drive_async(self._call.finish(None), self._inner, self._exchange)

    async def aclose(self) -> None:
        self._call.cancel()
        try:
            await _drive_async(self._call.finish(None), self._inner, self._exchange)
        finally:
            await self._response.aclose()


def _is_stream(answer: HttpAnswer) -> bool:
    return answer.headers.get("content-type", "").startswith("text/event-stream")


def _drive(steps: Steps[T], inner: httpx2.BaseTransport, exchange: _Exchange) -> T:
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = steps.send(None)
                continue
            try:
                answer = _send(step, inner, exchange)
            except httpx2.TransportError as error:
                step = steps.throw(_unreachable(error, exchange))
                continue
            step = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _drive_async(steps: Steps[T], inner: httpx2.AsyncBaseTransport, exchange: _Exchange) -> T:
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = steps.send(None)
                continue
            try:
                answer = await _send_async(step, inner, exchange)
            except httpx2.TransportError as error:
                step = steps.throw(_unreachable(error, exchange))
                continue
            step = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _unreachable(error: httpx2.TransportError, exchange: _Exchange) -> Unreachable:
    unreachable = Unreachable(f"{exchange.root} does not answer: {str(error) or type(error).__name__}")
    unreachable.__cause__ = error
    return unreachable


def _send(call: HttpCall, inner: httpx2.BaseTransport, exchange: _Exchange) -> HttpAnswer:
    response = inner.handle_request(exchange.request_for(call))
    if call.stream and response.status_code < 400:
        return HttpAnswer(response.status_code, response.headers, b"", response)
    try:
        return HttpAnswer(response.status_code, response.headers, response.read(), response)
    finally:
        response.close()


async def _send_async(call: HttpCall, inner: httpx2.AsyncBaseTransport, exchange: _Exchange) -> HttpAnswer:
    response = await inner.handle_async_request(exchange.request_for(call))
    if call.stream and response.status_code < 400:
        return HttpAnswer(response.status_code, response.headers, b"", response)
    try:
        return HttpAnswer(response.status_code, response.headers, await response.aread(), response)
    finally:
        await response.aclose()
