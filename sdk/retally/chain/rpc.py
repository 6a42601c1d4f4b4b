"""JSON-RPC to the chain: one request, one batch, one kind of failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from retally.errors import ChainUnreachable, RetallyError

T = TypeVar("T")

TIMEOUT_SECONDS = 30
CLOSE_SECONDS = 2
#: An exchange with all its tries takes no longer; nobody waits for one that its own limits did not end.
LONGEST_SECONDS = 5 * TIMEOUT_SECONDS


class Broken(Exception):
    """A request that has no answer."""


# ValueError: what answers is no JSON-RPC at all.
_BROKEN = (TimeoutError, OSError, Broken, ValueError)


class Exchange(Protocol):
    """Carries requests to the endpoint; raises Broken, TimeoutError, OSError or ValueError when none comes back."""

    async def one(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        """The response to one request."""

    async def batch(self, calls: Sequence[RpcCall]) -> object:
        """The responses to many in one round trip, in their order; or one response to them all."""

    async def close(self) -> None:
        """Closes the connections."""


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

    def __init__(self, url: str, exchange: Exchange | None = None, longest_seconds: float = LONGEST_SECONDS) -> None:
        self.url = url
        self._longest_seconds = longest_seconds
        # Its host alone is ever told: the path of an endpoint often holds somebody's key.
        parts = urlsplit(url)
        self.host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self.exchange = exchange or _by_web3(url)
        self._exchanges: set[asyncio.Future[Any]] = set()

    async def request(self, method: str, *params: Any) -> Any:
        """The result of one request."""
        try:
            response = await self._uninterrupted(self.exchange.one(method, params))
        except _BROKEN as error:
            raise ChainUnreachable(f"{self.host} does not answer {method}: {_kind(error)}") from error
        return _result(method, response)

    async def batch(self, calls: Sequence[RpcCall]) -> list[Any]:
        """The results of many requests in one round trip; the first failure raises."""
        if not calls:
            return []
        try:
            responses = await self._uninterrupted(self.exchange.batch(calls))
        except _BROKEN as error:
            raise ChainUnreachable(f"{self.host} does not answer a batch: {_kind(error)}") from error
        if not isinstance(responses, list):
            return [_result("batch", responses)]
        return [_result(call.method, response) for call, response in zip(calls, responses, strict=True)]

    async def close(self) -> None:
        """Closes the connections once what is under way has ended, or has had its time."""
        if self._exchanges:
            _, late = await asyncio.wait(self._exchanges, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.exchange.close()

    async def _uninterrupted(self, exchange: Coroutine[Any, Any, T]) -> T:
        """Waits for an exchange that goes on to its end, within its time-out, even when the waiting is cancelled.

        Warning: web3 guards its sessions by a lock that is taken in a worker thread. An exchange cancelled while that
        thread waits leaves the lock taken for ever, and with it every later request.
        """
        task = asyncio.ensure_future(exchange)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        task.add_done_callback(_seen)
        async with asyncio.timeout(self._longest_seconds):
            return await asyncio.shield(task)


def _seen(task: asyncio.Future[Any]) -> None:
    """Looks at how an exchange ended, so that one that nobody waits for any more is not reported as lost."""
    if not task.cancelled():
        task.exception()


def _by_web3(url: str) -> Exchange:
    # Loaded here: it is a dozen megabytes, and whoever brings another exchange goes without it.
    from retally.chain.web3_exchange import Web3Exchange

    return Web3Exchange(url)


def _kind(error: Exception) -> str:
    return str(error) if isinstance(error, Broken) else type(error).__name__


def _result(method: str, response: object) -> Any:
    if not isinstance(response, dict):
        raise RpcFailed(method, 0, f"{str(response)[:80]} is no response", b"")
    error = response.get("error")
    if error is None:
        if "result" not in response:
            raise RpcFailed(method, 0, f"{str(response)[:80]} has neither result nor error", b"")
        return response["result"]
    if not isinstance(error, dict):
        raise RpcFailed(method, 0, str(error), b"")
    return _raise(method, error)


def _raise(method: str, error: dict[str, Any]) -> None:
    data = error.get("data")
    if isinstance(data, dict):
        # Some nodes wrap the revert data once more.
        data = data.get("data")
    code = error.get("code")
    raise RpcFailed(method, code if isinstance(code, int) else 0, str(error.get("message", "error")), _raw(data))


def _raw(data: object) -> bytes:
    """What a contract reverted with; some endpoints put text there."""
    if isinstance(data, str) and data.startswith("0x"):
        with contextlib.suppress(ValueError):
            return bytes.fromhex(data[2:])
    return b""
