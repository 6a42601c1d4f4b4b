"""The native server: completions go to the hot path without ASGI between; all else goes to the app."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import structlog

from retally.errors import RetallyError
from retally_router.end_tasks import end_tasks
from retally_router.hot_path import ENDPOINTS, HotPath
from retally_router.native_bridge import path_of, run_asgi
from retally_router.native_line import NativeLine, Request, send_error
from retally_router.native_sink import NativeSink
from retally_router.other_paths import is_plain
from retally_router.sink import ClientGone

SWEEPS = 10
GRACE_SECONDS = 10.0
BACKLOG = 2048

_BY_URL = {path.encode(): endpoint for path, endpoint in ENDPOINTS.items()}

log = structlog.get_logger(__name__)


class NativeServer:
    """Serves the router's app on a socket."""

    def __init__(self, hot: HotPath, rest: Any, *, max_body_bytes: int, client_seconds: float) -> None:
        self._hot = hot
        self._rest = rest
        self.max_body_bytes = max_body_bytes
        self.client_seconds = client_seconds
        self.date = b""
        self.stopping = False
        self.lines: set[NativeLine] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serves while the block runs; then finishes what is under way, for a while."""
        async with _lifespan(self._rest):
            loop = asyncio.get_running_loop()
            self._tick()
            server = await loop.create_server(lambda: NativeLine(self), sock=listener, backlog=BACKLOG)
            sweeper = asyncio.create_task(self._sweep())
            try:
                yield
            finally:
                self.stopping = True
                server.close()
                await self._finish()
                await end_tasks([sweeper])

    async def respond(self, request: Request, sink: NativeSink, request_id: str) -> None:
        """One request."""
        try:
            endpoint = _endpoint_of(request) if request.method == b"POST" and is_plain(request.by_name) else None
            if endpoint is not None:
                await self._hot.serve(endpoint, request.by_name, request.body, sink, request_id)
                return
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await run_asgi(self._rest, request, sink)
        except ClientGone:
            log.info("client_does_not_read")
        except Exception:
            log.exception("request_failed")
            if not sink.begun:
                await send_error(sink, RetallyError("the router failed", hint="report this with the x-request-id"))

    async def _sweep(self) -> None:
        pause = min(1.0, self.client_seconds / SWEEPS)
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            self._tick()
            for line in list(self.lines):
                if line.deadline and now > line.deadline:
                    line.expire()

    def _tick(self) -> None:
        self.date = formatdate(usegmt=True).encode()

    async def _finish(self) -> None:
        ends = time.monotonic() + GRACE_SECONDS
        # Also what is still being tidied up for clients that left: it needs the store, which closes next.
        while (self.lines or self.tasks) and time.monotonic() < ends:
            for line in list(self.lines):
                line.close_idle()
            await asyncio.sleep(0.02)
        for line in list(self.lines):
            line.abort()
        await asyncio.sleep(0)
        await end_tasks(self.tasks)


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    """Starts and stops the app as an ASGI server would."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.create_task(app(scope, heard.get, said.put))

    async def tell(what: str) -> None:
        await heard.put({"type": f"lifespan.{what}"})
        answer = asyncio.create_task(said.get())
        await asyncio.wait((answer, task), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await task
            raise RuntimeError(f"the app ended during its {what}")
        if answer.result()["type"] != f"lifespan.{what}.complete":
            raise RuntimeError(f"the app's {what} failed: {answer.result().get('message', '')}")

    try:
        await tell("startup")
        yield
    finally:
        if not task.done():
            await tell("shutdown")
        with contextlib.suppress(Exception):
            await task


def _endpoint_of(request: Request) -> str | None:
    found = _BY_URL.get(request.url)
    return found or ENDPOINTS.get(path_of(request))


def bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared` lets several processes listen on one port."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.setblocking(False)
    return listener


async def serve_until_signal(server: NativeServer, listener: socket.socket) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with server.running(listener):
        await stop.wait()
