"""The node's HTTP interface over aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from retally.crash_points import crash_point
from retally.errors import NodeUnavailable, UpstreamTimeout, error_of_envelope
from retally.keep_alive import CLIENT_SECONDS

_JSON = {"content-type": "application/json"}
_BROKEN = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)


class AiohttpStream:
    """A node's answer over one aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, idle_seconds: float) -> None:
        self.status = response.status
        self._response = response
        self._idle_seconds = idle_seconds

    async def next(self) -> bytes:
        """The next bytes of the body; raises NodeUnavailable when the node breaks off."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._response.content.readany()
        except TimeoutError as error:
            raise UpstreamTimeout(f"the node sent nothing for {self._idle_seconds:g} s") from error
        except _BROKEN as error:
            # aiohttp raises the break before it hands out what came ahead of it. Those tokens were sent and may be
            # billed, so they are forwarded: whoever goes on from before them would bill them again.
            rest = self._response.content._read_nowait(-1)
            if rest:
                return rest
            raise NodeUnavailable(f"the node broke off: {error}") from error

    def close(self) -> None:
        """Breaks the connection."""
        self._response.close()


class AiohttpNodeApi:
    """NodeApi over a keep-alive pool."""

    def __init__(self, *, connect_seconds: float, first_byte_seconds: float, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._first_byte_seconds = first_byte_seconds
        self._short = aiohttp.ClientTimeout(total=max(2.0, connect_seconds))
        self._long = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Opens the pool; needs a running loop."""
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=CLIENT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def close(self) -> None:
        """Closes the pool."""
        if self._session is not None:
            await self._session.close()

    async def info(self, endpoint: str) -> Mapping[str, Any]:
        """What the node says about itself."""
        return await self._json("GET", f"{endpoint}/retally/v1/info")

    async def start_job(self, endpoint: str, submission: bytes, request_id: str) -> AiohttpStream:
        """Hands the job over; the body comes as a stream."""
        headers = {**_JSON, "x-request-id": request_id}
        url = f"{endpoint}/retally/v1/jobs"
        crash_point("before:send:submission")
        try:
            async with asyncio.timeout(self._first_byte_seconds):
                response = await self._pool.post(url, data=submission, headers=headers, timeout=self._long)
        except TimeoutError as error:
            raise UpstreamTimeout(f"the node did not answer within {self._first_byte_seconds:g} s") from error
        except _BROKEN as error:
            raise NodeUnavailable(f"the node can't be reached: {error}") from error
        crash_point("after:send:submission")
        return AiohttpStream(response, self._idle_seconds)

    async def send_vouchers(self, endpoint: str, vouchers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Pays."""
        body = msgspec.json.encode({"vouchers": vouchers})
        crash_point("before:send:voucher")
        shown = await self._json("POST", f"{endpoint}/retally/v1/vouchers", body)
        crash_point("after:send:voucher")
        return shown

    async def channel(self, endpoint: str, payer: str, signer: str, lane: int) -> Mapping[str, Any]:
        """The node's view of a channel."""
        return await self._json("GET", f"{endpoint}/retally/v1/channels/{payer}/{signer}/{lane}")

    async def receipts(self, endpoint: str, job_id: str) -> Mapping[str, Any]:
        """The receipts of a job so far."""
        return await self._json("GET", f"{endpoint}/retally/v1/receipts/{job_id}")

    @property
    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the pool is not open")
        return self._session

    async def _json(self, method: str, url: str, body: bytes | None = None) -> Mapping[str, Any]:
        try:
            async with self._pool.request(method, url, data=body, headers=_JSON, timeout=self._short) as response:
                status, raw = response.status, await response.read()
        except TimeoutError as error:
            raise UpstreamTimeout(f"{url} did not answer in time") from error
        except _BROKEN as error:
            raise NodeUnavailable(f"{url} can't be reached: {error}") from error
        try:
            value = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise NodeUnavailable(f"{url} answered {status} without JSON") from error
        if status >= 400:
            raise error_of_envelope(status, value)
        if not isinstance(value, dict):
            raise NodeUnavailable(f"{url} answered no object")
        return value
