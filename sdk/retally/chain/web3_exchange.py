"""Requests to the chain by web3's own provider."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import aiohttp
from web3 import AsyncHTTPProvider
from web3.exceptions import Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import RPCEndpoint

from retally.chain.recursion import bound_recursion
from retally.chain.rpc import TIMEOUT_SECONDS, Broken, RpcCall

# Here, where web3 is loaded: whoever opens a chain also reads JSON of strangers.
bound_recursion()


class Web3Exchange:
    """The endpoint of one chain, by web3."""

    def __init__(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        # A broken connection is tried again; one that timed out has used up its time.
        retries = ExceptionRetryConfiguration(errors=(aiohttp.ClientError,), retries=3)
        self.provider = AsyncHTTPProvider(
            url, request_kwargs={"timeout": timeout}, exception_retry_configuration=retries
        )
        # Else a blocking web3 client on the loop's own thread waits for a lock that only the loop can give back.
        self.provider._request_session_manager._lock = threading.Lock()

    async def one(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        """The response to one request."""
        try:
            return cast("dict[str, Any]", await self.provider.make_request(RPCEndpoint(method), list(params)))
        except (aiohttp.ClientError, Web3Exception) as error:
            raise Broken(type(error).__name__) from error

    async def batch(self, calls: Sequence[RpcCall]) -> object:
        """The responses to many in one round trip, in their order; or one response to them all."""
        try:
            return await self.provider.make_batch_request(
                [(RPCEndpoint(call.method), list(call.params)) for call in calls]
            )
        except (aiohttp.ClientError, Web3Exception) as error:
            raise Broken(type(error).__name__) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self.provider.disconnect()
