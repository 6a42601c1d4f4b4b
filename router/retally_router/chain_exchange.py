"""Requests to the chain on the router's own connections: with web3 for it, a worker would be twice as large."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from retally.chain.rpc import TIMEOUT_SECONDS, Broken, RpcCall
from retally.errors import BadRequest, NodeUnavailable, UpstreamTimeout
from retally_router.node_pool import NodePool
from retally_router.origin import Origin, tls_of

MOST_BYTES = 64 * 1024 * 1024
TRIES = 4
FIRST_PAUSE_SECONDS = 0.125


class PooledExchange:
    """The endpoint of one chain, which is only read here: a request whose connection broke is sent again."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadRequest("rpc_url must be an http or https address", param="rpc_url")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise BadRequest(f"rpc_url: {error}", param="rpc_url") from error
        authority = parts.netloc.rpartition("@")[2]
        self._origin = Origin(parts.hostname, port, tls_of(parts.scheme), "", authority)
        self._head = _head_of(parts.path or "/", parts.query, authority, _credentials(parts.username, parts.password))
        self._pool: NodePool | None = None
        self._number = 0

    async def one(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        """The response to one request."""
        response = await self._answer(self._request(method, params))
        if not isinstance(response, dict):
            raise ValueError("no JSON-RPC object")
        return response

    async def batch(self, calls: Sequence[RpcCall]) -> object:
        """The responses to many in one round trip, in their order; or one response to them all."""
        requests = [self._request(call.method, call.params) for call in calls]
        responses = await self._answer(requests)
        if not isinstance(responses, list):
            return responses
        by_id = {each["id"]: each for each in responses if isinstance(each, dict) and isinstance(each.get("id"), int)}
        if by_id.keys() != {each["id"] for each in requests}:
            raise ValueError("the batch's responses are not those of its requests")
        return [by_id[each["id"]] for each in requests]

    async def close(self) -> None:
        """Closes the connections."""
        if self._pool is not None:
            await self._pool.close()

    def _request(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        self._number += 1
        return {"jsonrpc": "2.0", "id": self._number, "method": method, "params": list(params)}

    async def _answer(self, content: object) -> object:
        body, pause = msgspec.json.encode(content), FIRST_PAUSE_SECONDS
        for _ in range(TRIES - 1):
            try:
                return await self._post(body)
            except NodeUnavailable:
                await asyncio.sleep(pause)
                pause *= 2
        try:
            return await self._post(body)
        except NodeUnavailable as error:
            raise Broken(error.message) from error

    async def _post(self, body: bytes) -> object:
        if self._pool is None:
            self._pool = NodePool(connect_seconds=TIMEOUT_SECONDS, shortest_seconds=TIMEOUT_SECONDS)
            await self._pool.start()
        ends = time.monotonic() + TIMEOUT_SECONDS
        try:
            upstream, status = await self._pool.send(self._origin, self._head % len(body), body, TIMEOUT_SECONDS, "")
            parts, size = [], 0
            try:
                while part := await upstream.next(ends, ""):
                    parts.append(part)
                    size += len(part)
                    if size > MOST_BYTES:
                        raise Broken(f"more than {MOST_BYTES} bytes")
            finally:
                upstream.done()
        except UpstreamTimeout as error:
            raise TimeoutError from error
        try:
            return msgspec.json.decode(b"".join(parts))
        except (msgspec.DecodeError, RecursionError) as error:
            if status >= 500:
                raise NodeUnavailable(f"status {status}") from error
            raise Broken(f"status {status}, no JSON") from error


def _credentials(user: str | None, password: str | None) -> str:
    """What a URL's name and password come to as a header."""
    if user is None and password is None:
        return ""
    pair = f"{unquote(user or '')}:{unquote(password or '')}"
    return f"authorization: Basic {b64encode(pair.encode()).decode()}\r\n"


def _head_of(path: str, query: str, authority: str, credentials: str) -> bytes:
    target = f"{path}?{query}" if query else path
    if not target.isascii() or any(not 33 <= ord(letter) <= 126 for letter in target):
        raise BadRequest("rpc_url has letters that no address has", param="rpc_url")
    head = f"POST {target} HTTP/1.1\r\nhost: {authority}\r\n{credentials}content-type: application/json\r\n"
    return head.encode().replace(b"%", b"%%") + b"content-length: %d\r\n\r\n"
