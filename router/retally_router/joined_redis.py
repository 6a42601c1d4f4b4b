"""The store's client for the hot path: what is asked in one turn of the loop leaves in one write, on one connection.

It has the part of redis-py's interface that the router uses, with errors of its own. A command whose connection
breaks fails: whether it was carried out is unknown, as with any store.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

from retally_router.plain_redis import PlainRedis
from retally_router.redis_commands import Commands
from retally_router.resp import Part, Replies, command_of
from retally_router.store_errors import ScriptUnknown, StoreError, StoreTimeout, StoreUnreachable

GRACE_SECONDS = 0.05

Waiter = asyncio.Future[Any]


def open_store(url: str, seconds: float) -> Any:
    """The client for that URL: joined over plain TCP, redis-py's own for TLS and sockets of files."""
    if urlsplit(url).scheme != "redis" or urlsplit(url).query:
        return PlainRedis(url, seconds)
    return JoinedRedis(url, seconds)


class Pipeline(Commands):
    """Commands that leave together."""

    def __init__(self, store: JoinedRedis) -> None:
        self._store = store
        self._commands: list[bytes] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands = []

    def _call(self, *parts: Part) -> Self:
        self._commands.append(command_of(*parts))
        return self

    async def execute(self) -> list[Any]:
        """Sends them; raises the first error, after all were answered."""
        commands, self._commands = self._commands, []
        waiters = [self._store.send(command) for command in commands]
        found = await asyncio.gather(*waiters, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return list(found)


class JoinedRedis(Commands):
    """One connection to Redis, opened when it is needed."""

    def __init__(self, url: str, seconds: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._seconds = seconds
        self._hello: list[bytes] = []
        if parts.password:
            names = [unquote(parts.username)] if parts.username else []
            self._hello.append(command_of("AUTH", *names, unquote(parts.password)))
        database = parts.path.strip("/")
        if database not in ("", "0"):
            self._hello.append(command_of("SELECT", database))
        self._scripts: dict[str, str] = {}
        self._out: list[bytes] = []
        self._waiting: deque[tuple[float, Waiter]] = deque()
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._late: Waiter | None = None

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        """HGETALL."""
        flat = await self._call("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def eval(self, script: str, count: int, *parts: Part) -> Any:
        """EVAL by the script's hash; the script itself goes only where it is not known."""
        digest = self._scripts.get(script)
        if digest is None:
            digest = self._scripts[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._call("EVALSHA", digest, count, *parts)
        except ScriptUnknown:
            return await self._call("EVAL", script, count, *parts)

    def pipeline(self, *, transaction: bool) -> Pipeline:
        """Commands that leave together, without a transaction."""
        if transaction:
            raise NotImplementedError("nothing here needs a transaction")
        return Pipeline(self)

    async def aclose(self) -> None:
        """Closes the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._break(StoreUnreachable("the client was closed"))

    def _call(self, *parts: Part) -> Waiter:
        return self.send(command_of(*parts))

    def send(self, command: bytes) -> Waiter:
        """Sends a command with whatever else is sent in this turn; its reply."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(command)
        self._waiting.append((loop.time() + self._seconds, waiter))
        if self._watch is None:
            self._watch = loop.call_later(self._seconds, self._look)
        return waiter

    def _flush(self) -> None:
        if self._line is not None:
            self._line.write(b"".join(self._out))
            self._out = []
        elif self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        line: _Line | None = None
        try:
            async with asyncio.timeout(self._seconds):
                _, line = await loop.create_connection(lambda: _Line(self), self._host, self._port)
                # Nothing may run before it: without its SELECT a command would go to another database.
                for greeting in self._hello:
                    await line.greet(greeting)
        except (OSError, TimeoutError, StoreError) as error:
            if line is not None:
                line.abort()
            self._fail(StoreUnreachable(f"Redis at {self._host}:{self._port} can't be reached: {error}"))
        else:
            self._line = line
            if self._out:
                self._flush()
        finally:
            self._connecting = None

    def lost(self, line: _Line, error: Exception | None) -> None:
        """Whatever was asked there has no answer."""
        if line is self._line:
            self._line = None
            self._fail(StoreUnreachable(f"Redis closed the connection: {error or 'it ended'}"))

    def take(self, line: _Line, replies: list[Any]) -> None:
        """Replies come in the order of the commands."""
        for reply in replies if line is self._line else ():
            if not self._waiting:
                self._break(StoreUnreachable("Redis answers what nobody asked"))
                return
            waiter = self._waiting.popleft()[1]
            if waiter.done():
                continue
            if isinstance(reply, StoreError):
                waiter.set_exception(reply)
            else:
                waiter.set_result(reply)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._watch = None
        if not self._waiting:
            return
        ends, oldest = self._waiting[0]
        if ends > loop.time():
            self._late = None
            self._watch = loop.call_at(ends, self._look)
        elif self._late is not oldest:
            # A busy loop runs its timers before it reads: the reply may be here already.
            self._late = oldest
            self._watch = loop.call_later(GRACE_SECONDS, self._look)
        else:
            self._break(StoreTimeout(f"Redis did not answer within {self._seconds:g} s"))

    def _break(self, why: StoreError) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.abort()
        self._fail(why)

    def _fail(self, why: StoreError) -> None:
        self._out = []
        waiting, self._waiting = self._waiting, deque()
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(why)


class _Line(asyncio.Protocol):
    """One life of the connection: what an earlier one still says counts no more."""

    def __init__(self, store: JoinedRedis) -> None:
        self._store = store
        self._replies = Replies()
        self._greeting: Waiter | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(StoreUnreachable("it closed the connection"))
        self._store.lost(self, error)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._replies.feed(data)
        except ValueError as error:
            self._transport.abort()
            self._store.lost(self, error)
            return
        if self._greeting is None:
            self._store.take(self, replies)
            return
        for reply in replies[:1] if not self._greeting.done() else ():
            if isinstance(reply, StoreError):
                self._greeting.set_exception(reply)
            else:
                self._greeting.set_result(reply)

    async def greet(self, command: bytes) -> None:
        """Sends one command ahead of all others; raises what Redis says against it."""
        self._greeting = asyncio.get_running_loop().create_future()
        self._transport.write(command)
        try:
            await self._greeting
        finally:
            self._greeting = None

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()
