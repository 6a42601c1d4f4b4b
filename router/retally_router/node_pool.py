"""Keep-alive connections to the nodes, so many at most for each; one task keeps all their time limits."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextvars import Context

from retally.errors import NodeUnavailable, UpstreamTimeout
from retally.keep_alive import CLIENT_SECONDS
from retally_router.end_tasks import end_tasks
from retally_router.fair_timeout import FairTimeout
from retally_router.origin import Origin, origin_of
from retally_router.tracing import TRACEPARENT
from retally_router.upstream import Upstream

MOST_CONNECTIONS = 4096
SWEEPS = 10


class NodePool:
    """Connections by origin."""

    def __init__(self, *, connect_seconds: float, shortest_seconds: float, most: int = MOST_CONNECTIONS) -> None:
        self._connect_seconds = connect_seconds
        self._sweep_seconds = min(0.25, shortest_seconds / SWEEPS)
        self._most = most
        self._free: dict[Origin, list[Upstream]] = defaultdict(list)
        self._open: dict[Upstream, Origin] = {}
        self._count: dict[Origin, int] = defaultdict(int)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open, to all nodes together."""
        return len(self._open)

    async def start(self) -> None:
        """Begins to keep time."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Breaks every connection."""
        if self._sweeper is not None:
            await end_tasks([self._sweeper])
        for upstream in list(self._open):
            upstream.abort(NodeUnavailable("the router stops"))
        await asyncio.sleep(0)

    async def ask(
        self, method: str, endpoint: str, path: str, body: bytes, *, request_id: str | None, seconds: float
    ) -> tuple[Upstream, int]:
        """Sends a request on a free connection or a new one; the connection and the answer's status."""
        origin = origin_of(endpoint)
        head = origin.head(method, path, request_id, len(body), TRACEPARENT.get() if request_id else "")
        return await self.send(origin, head, body, seconds, f"{endpoint}{path} did not answer within {seconds:g} s")

    async def send(self, origin: Origin, head: bytes, body: bytes, seconds: float, late: str) -> tuple[Upstream, int]:
        """As `ask`, with a head that was made already; `late` is what a time-out says."""
        upstream = await self._take(origin, seconds)
        try:
            return upstream, await upstream.ask(head, body, time.monotonic() + seconds, late)
        except BaseException:
            upstream.abort(NodeUnavailable("the request was given up"))
            raise

    async def _take(self, origin: Origin, seconds: float) -> Upstream:
        free = self._free[origin]
        while free:
            upstream = free.pop()
            if upstream.is_open:
                return upstream
        if self._count[origin] >= self._most:
            raise NodeUnavailable(f"{origin.authority} has {self._most} connections of this router already")
        self._count[origin] += 1
        try:
            return await self._connect(origin, min(seconds, self._connect_seconds))
        except BaseException:
            self._count[origin] -= 1
            raise

    async def _connect(self, origin: Origin, seconds: float) -> Upstream:
        loop = asyncio.get_running_loop()

        def free(upstream: Upstream) -> None:
            upstream.idle_since = time.monotonic()
            self._free[origin].append(upstream)

        try:
            opening = loop.create_connection(
                lambda: Upstream(free, self._lost), origin.host, origin.port, ssl=origin.tls
            )
            async with FairTimeout(seconds):
                # Else it would keep the variables of the request that opened it, and log in its name, all its life.
                _, upstream = await asyncio.create_task(opening, context=Context())
        except TimeoutError as error:
            raise UpstreamTimeout(f"{origin.authority} took no connection within {seconds:g} s") from error
        except OSError as error:
            raise NodeUnavailable(f"{origin.authority} can't be reached: {error}") from error
        if not upstream.is_open:
            raise NodeUnavailable(f"{origin.authority} closed the connection at once")
        self._open[upstream] = origin
        return upstream

    def _lost(self, upstream: Upstream) -> None:
        origin = self._open.pop(upstream, None)
        if origin is None:
            return
        self._count[origin] -= 1
        free = self._free.get(origin, [])
        if upstream in free:
            free.remove(upstream)
        if not self._count[origin]:
            self._count.pop(origin)
            self._free.pop(origin, None)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            now = time.monotonic()
            for upstream in list(self._open):
                if upstream.deadline and now > upstream.deadline:
                    # A busy loop runs this before it reads: the answer may be here already, and is read by the next.
                    if upstream.overdue == upstream.deadline:
                        upstream.expire()
                    upstream.overdue = upstream.deadline
                elif not upstream.busy and now > upstream.idle_since + CLIENT_SECONDS and upstream.idle_since:
                    upstream.abort(NodeUnavailable("idle"))
