"""JSON-RPC to the chain: one request, one batch, one kind of failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
from web3 import AsyncHTTPProvider
from web3.exceptions import Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import RPCEndpoint

from retally.errors import ChainUnreachable, RetallyError

T = TypeVar("T")

TIMEOUT_SECONDS = 30
CLOSE_SECONDS = 2
# ValueError: what answers is no JSON-RPC at all.
_BROKEN = (TimeoutError, OSError, aiohttp.ClientError, Web3Exception, ValueError)


class RpcFailed(RetallyError):
    """The chain answered a request with an error; `data` is what a contract reverted with."""

    code = "rpc_failed"

    def __init__(self, method: str, rpc_code: int, message: str, data: bytes) -> None:
        super().__init__(f"{method}: {message}")
        self.method = method
        self.rpc_code = rpc_code
        self.data = data


@dataclass(frozen=True, slots=True)
class RpcCall:
    """A method and its parameters."""

    method: str
    params: tuple[Any, ...]


class Rpc:
    """The endpoint of one chain."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Its host alone is ever told: the path of an endpoint often holds somebody's key.
        parts = urlsplit(url)
        self.host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        # A broken connection is tried again; one that timed out has used up its time.
        retries = ExceptionRetryConfiguration(errors=(aiohttp.ClientError,), retries=3)
        self.provider = AsyncHTTPProvider(
            url, request_kwargs={"timeout": timeout}, exception_retry_configuration=retries
        )
        self._exchanges: set[asyncio.Future[Any]] = set()
        # Else a blocking web3 client on the loop's own thread waits for a lock that only the loop can give back.
        self.provider._request_session_manager._lock = threading.Lock()

    async def request(self, method: str, *params: Any) -> Any:
        """The result of one request."""
        try:
            response = await self._uninterrupted(self.provider.make_request(RPCEndpoint(method), list(params)))
        except _BROKEN as error:
            raise ChainUnreachable(f"{self.host} does not answer {method}: {type(error).__name__}") from error
        return _result(method, cast("dict[str, Any]", response))

    async def batch(self, calls: Sequence[RpcCall]) -> list[Any]:
        """The results of many requests in one round trip; the first failure raises."""
        if not calls:
            return []
        pairs = [(RPCEndpoint(call.method), list(call.params)) for call in calls]
        try:
            responses = await self._uninterrupted(self.provider.make_batch_request(pairs))
        except _BROKEN as error:
            raise ChainUnreachable(f"{self.host} does not answer a batch: {type(error).__name__}") from error
        if not isinstance(responses, list):
            return [_result("batch", cast("dict[str, Any]", responses))]
        paired = zip(calls, responses, strict=True)
        return [_result(call.method, cast("dict[str, Any]", response)) for call, response in paired]

    async def close(self) -> None:
        """Closes the connections once what is under way has ended, or has had its time."""
        if self._exchanges:
            _, late = await asyncio.wait(self._exchanges, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.provider.disconnect()

    async def _uninterrupted(self, exchange: Coroutine[Any, Any, T]) -> T:
        """Waits for an exchange that goes on to its end, within its time-out, even when the waiting is cancelled.

        Warning: web3 guards its sessions by a lock that is taken in a worker thread. An exchange cancelled while that
        thread waits leaves the lock taken for ever, and with it every later request.
        """
        task = asyncio.ensure_future(exchange)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        task.add_done_callback(_seen)
        return await asyncio.shield(task)


def _seen(task: asyncio.Future[Any]) -> None:
    """Looks at how an exchange ended, so that one that nobody waits for any more is not reported as lost."""
    if not task.cancelled():
        task.exception()


def _result(method: str, response: dict[str, Any]) -> Any:
    error = response.get("error")
    if error is None:
        return response.get("result")
    if not isinstance(error, dict):
        raise RpcFailed(method, 0, str(error), b"")
    return _raise(method, error)


def _raise(method: str, error: dict[str, Any]) -> None:
    data = error.get("data")
    if isinstance(data, dict):
        # Some nodes wrap the revert data once more.
        data = data.get("data")
    raw = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""
    raise RpcFailed(method, int(error.get("code", 0)), str(error.get("message", "error")), raw)
