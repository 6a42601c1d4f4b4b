"""The node's HTTP interface over the pool of connections."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from retally.crash_points import crash_point
from retally.errors import NodeUnavailable, error_of_envelope
from retally_router.node_pool import NodePool
from retally_router.ports import Direct
from retally_router.sse import DONE
from retally_router.upstream import Upstream

MOST_JSON_BYTES = 16 * 1024 * 1024
LINGER_SECONDS = 1.0


class HttpStream:
    """A node's answer to a job."""

    def __init__(self, upstream: Upstream, status: int, idle_seconds: float) -> None:
        self.status = status
        self._upstream = upstream
        self._idle_seconds = idle_seconds
        self._late = f"the node sent nothing for {idle_seconds:g} s"
        self._closed = self._whole = False

    async def next(self, direct: Direct | None = None) -> bytes:
        """The next bytes of the body; raises NodeUnavailable when the node breaks off, after all that came before."""
        if self._closed:
            return b""
        passing = None if direct is None else partial(self._pass, direct)
        data = await self._upstream.next(time.monotonic() + self._idle_seconds, self._late, passing)
        self._closed = not data
        self._whole = data.endswith(DONE)
        return data

    def _pass(self, direct: Direct, data: bytes) -> bool:
        if not direct(data):
            return False
        self._upstream.deadline = time.monotonic() + self._idle_seconds
        self._whole = False
        return True

    def close(self) -> None:
        """Gives the connection back if the answer came whole, else breaks it."""
        if not self._closed:
            self._closed = True
            if self._whole:
                self._upstream.linger(time.monotonic() + LINGER_SECONDS)
            else:
                self._upstream.done()


class HttpNodeApi:
    """NodeApi over keep-alive connections."""

    def __init__(self, *, connect_seconds: float, first_byte_seconds: float, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._first_byte_seconds = first_byte_seconds
        self._short_seconds = max(2.0, connect_seconds)
        shortest = min(connect_seconds, first_byte_seconds, idle_seconds)
        self.pool = NodePool(connect_seconds=connect_seconds, shortest_seconds=shortest)

    async def start(self) -> None:
        """Opens the pool; needs a running loop."""
        await self.pool.start()

    async def close(self) -> None:
        """Closes the pool."""
        await self.pool.close()

    async def info(self, endpoint: str) -> Mapping[str, Any]:
        """What the node says about itself."""
        return await self._json("GET", endpoint, "/retally/v1/info")

    async def start_job(self, endpoint: str, submission: bytes, request_id: str) -> HttpStream:
        """Hands the job over; the body comes as a stream."""
        crash_point("before:send:submission")
        upstream, status = await self.pool.ask(
            "POST",
            endpoint,
            "/retally/v1/jobs",
            submission,
            request_id=request_id,
            seconds=self._first_byte_seconds,
        )
        crash_point("after:send:submission")
        return HttpStream(upstream, status, self._idle_seconds)

    async def send_vouchers(self, endpoint: str, vouchers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Pays."""
        body = msgspec.json.encode({"vouchers": vouchers})
        crash_point("before:send:voucher")
        shown = await self._json("POST", endpoint, "/retally/v1/vouchers", body)
        crash_point("after:send:voucher")
        return shown

    async def channel(self, endpoint: str, payer: str, signer: str, lane: int) -> Mapping[str, Any]:
        """The node's view of a channel."""
        return await self._json("GET", endpoint, f"/retally/v1/channels/{payer}/{signer}/{lane}")

    async def receipts(self, endpoint: str, job_id: str) -> Mapping[str, Any]:
        """The receipts of a job so far."""
        return await self._json("GET", endpoint, f"/retally/v1/receipts/{job_id}")

    async def _json(self, method: str, endpoint: str, path: str, body: bytes = b"") -> Mapping[str, Any]:
        url, ends = f"{endpoint}{path}", time.monotonic() + self._short_seconds
        upstream, status = await self.pool.ask(
            method, endpoint, path, body, request_id=None, seconds=self._short_seconds
        )
        raw = b""
        try:
            while part := await upstream.next(ends, f"{url} did not answer in time"):
                raw += part
                if len(raw) > MOST_JSON_BYTES:
                    raise NodeUnavailable(f"{url} answers more than {MOST_JSON_BYTES} bytes")
        finally:
            upstream.done()
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise NodeUnavailable(f"{url} answered {status} without JSON") from error
        if status >= 400:
            raise error_of_envelope(status, value)
        if not isinstance(value, dict):
            raise NodeUnavailable(f"{url} answered no object")
        return value
