"""What a tracer hears of a request: a port. Without a collector nobody listens, and no library for it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from retally.errors import RetallyError

if TYPE_CHECKING:
    from retally_router.serve_job import ServeJob

#: What a node is told of the trace that its job belongs to (W3C Trace Context); empty outside of one.
TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")


class RequestSpan(Protocol):
    """One request as it goes on."""

    def accepted(self, job: ServeJob) -> None:
        """It was understood, paid for and given its nodes."""
        ...

    def refused(self, error: RetallyError) -> None:
        """The client is told an error."""
        ...

    def ended(self, job: ServeJob) -> None:
        """The job is over, one way or the other."""
        ...

    def close(self, status: int) -> None:
        """The response is out; always called, once."""
        ...


class Tracing(Protocol):
    """Makes a span of each request."""

    def begin(self, endpoint: str, headers: Mapping[bytes, bytes], request_id: str) -> RequestSpan:
        """A request came."""
        ...

    async def start(self) -> None:
        """Called with the router's start."""
        ...

    async def close(self) -> None:
        """Called with its end: what was not sent yet is sent."""
        ...


class _NoSpan:
    """Nobody listens."""

    def accepted(self, job: ServeJob) -> None:
        """Nothing to note."""

    def refused(self, error: RetallyError) -> None:
        """Nothing to note."""

    def ended(self, job: ServeJob) -> None:
        """Nothing to note."""

    def close(self, status: int) -> None:
        """Nothing to send."""


_NO_SPAN = _NoSpan()


class Untraced:
    """A tracing without a collector."""

    def begin(self, endpoint: str, headers: Mapping[bytes, bytes], request_id: str) -> RequestSpan:
        """Nothing begins."""
        return _NO_SPAN

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to send."""
