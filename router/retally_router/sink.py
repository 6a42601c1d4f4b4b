"""Where a response goes: one interface, an adapter for each server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client left, or takes nothing any more."""


class DirectOut(Protocol):
    """Takes more of a response without waiting."""

    @property
    def has_room(self) -> bool:
        """Whether what is put there now needs no waiting."""
        ...

    def put(self, data: bytes) -> None:
        """More bytes: only where there is room."""
        ...


class Sink(Protocol):
    """Takes a response in order; raises ClientGone when the client takes nothing for too long."""

    async def head(self, status: int, headers: Headers) -> None:
        """Status and headers."""
        ...

    async def body(self, data: bytes) -> None:
        """More bytes."""
        ...

    @property
    def direct(self) -> DirectOut | None:
        """Where more bytes go at once, if they can."""
        ...

    async def end(self, data: bytes) -> None:
        """The last bytes."""
        ...
