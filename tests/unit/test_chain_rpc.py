"""One endpoint of a chain: what a cancelled request leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from web3._utils.http_session_manager import HTTPSessionManager

from retally.chain.clock import ChainClock
from retally.chain.rpc import Rpc, RpcCall, RpcFailed
from retally.errors import BadRequest, ChainUnreachable
from retally_router.chain_exchange import PooledExchange

ROUNDS = 40


@pytest_asyncio.fixture(params=["web3", "pooled"])
async def rpc(request: pytest.FixtureRequest) -> AsyncIterator[Rpc]:
    """An endpoint that answers every request with its block number, a little late."""

    async def answer(asked: web.Request) -> web.Response:
        body = await asked.json()
        await asyncio.sleep(0.002)
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": "0x7"})

    async with answering(answer) as url:
        endpoint = Rpc(url, PooledExchange(url) if request.param == "pooled" else None)
        yield endpoint
        await endpoint.close()


@asynccontextmanager
async def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL of a server whose every path is answered so."""
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def pooled(url: str) -> AsyncIterator[Rpc]:
    """The router's way to that endpoint."""
    endpoint = Rpc(url, PooledExchange(url))
    try:
        yield endpoint
    finally:
        await endpoint.close()


class TestRequest:
    async def test_answers_others_whoever_is_cancelled(self, rpc: Rpc) -> None:
        for number in range(ROUNDS):
            waiting = [asyncio.create_task(rpc.request("eth_blockNumber")) for _ in range(4)]
            await asyncio.sleep(number * 0.0001)
            waiting[0].cancel()
            waiting[2].cancel()
            await asyncio.wait(waiting, timeout=5)

        async with asyncio.timeout(5):
            assert await rpc.request("eth_blockNumber") == "0x7"

    async def test_shares_no_lock_with_blocking_clients(self, rpc: Rpc) -> None:
        with HTTPSessionManager._lock:
            async with asyncio.timeout(5):
                assert await rpc.request("eth_blockNumber") == "0x7"


class Hung:
    """An exchange that no limit of its own ends."""

    async def one(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def batch(self, calls: Sequence[RpcCall]) -> object:
        return await self.one("batch", calls)

    async def close(self) -> None:
        """Nothing is open."""


async def test_waits_for_no_exchange_for_ever() -> None:
    endpoint = Rpc("http://chain:1", Hung(), longest_seconds=0.05)
    async with asyncio.timeout(5):
        with pytest.raises(ChainUnreachable, match="chain:1 does not answer eth_call: TimeoutError"):
            await endpoint.request("eth_call")
        with pytest.raises(ChainUnreachable, match="a batch: TimeoutError"):
            await endpoint.batch([RpcCall("eth_call", ())])
        await endpoint.close()


class TestPooledExchange:
    """What the router asks the chain by, without web3."""

    async def test_sends_path_query_and_credentials_of_the_url(self) -> None:
        seen: list[tuple[str, str | None]] = []

        async def answer(asked: web.Request) -> web.Response:
            seen.append((asked.raw_path, asked.headers.get("authorization")))
            return web.json_response({"id": (await asked.json())["id"], "result": "0x1"})

        async with answering(answer) as url, pooled(f"{url.replace('//', '//me:p%20w@')}/v3/a%25b?key=k") as rpc:
            await rpc.request("eth_chainId")
        assert seen == [("/v3/a%25b?key=k", "Basic bWU6cCB3")]

    async def test_orders_what_a_batch_returns_in_any_order(self) -> None:
        async def answer(asked: web.Request) -> web.Response:
            body = await asked.json()
            return web.json_response([{"id": one["id"], "result": one["params"][0]} for one in reversed(body)])

        async with answering(answer) as url, pooled(url) as rpc:
            assert await rpc.batch([RpcCall("m", (number,)) for number in range(5)]) == list(range(5))

    async def test_a_batch_of_other_responses_is_none(self) -> None:
        async def answer(asked: web.Request) -> web.Response:
            return web.json_response([{"id": 0, "result": 1}])

        async with answering(answer) as url, pooled(url) as rpc:
            with pytest.raises(ChainUnreachable, match="does not answer a batch"):
                await rpc.batch([RpcCall("m", ())])

    async def test_tells_what_the_chain_says_against_a_request(self) -> None:
        async def answer(asked: web.Request) -> web.Response:
            error = {"code": 3, "message": "execution reverted", "data": "0x1234"}
            return web.json_response({"id": (await asked.json())["id"], "error": error}, status=400)

        async with answering(answer) as url, pooled(url) as rpc:
            with pytest.raises(RpcFailed) as failed:
                await rpc.request("eth_call")
        assert (failed.value.rpc_code, failed.value.data) == (3, b"\x12\x34")

    async def test_asks_again_when_a_gateway_fails(self) -> None:
        asks = 0

        async def answer(asked: web.Request) -> web.Response:
            nonlocal asks
            asks += 1
            if asks < 3:
                return web.Response(status=502, text="<html>")
            return web.json_response({"id": (await asked.json())["id"], "result": "0x7"})

        async with answering(answer) as url, pooled(url) as rpc:
            assert await rpc.request("eth_blockNumber") == "0x7"

    async def test_asks_again_when_the_connection_breaks(self) -> None:
        asks = 0

        async def answer(asked: web.Request) -> web.Response:
            nonlocal asks
            asks += 1
            if asks == 2:
                assert asked.transport is not None
                asked.transport.abort()
            return web.json_response({"id": (await asked.json())["id"], "result": hex(asks)})

        async with answering(answer) as url, pooled(url) as rpc:
            assert [await rpc.request("eth_blockNumber") for _ in range(2)] == ["0x1", "0x3"]

    async def test_names_only_the_host_when_nobody_answers(self) -> None:
        async with pooled("http://127.0.0.1:9/secret") as rpc:
            with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1:9 does not answer") as failed:
                await rpc.request("eth_chainId")
        assert "secret" not in str(failed.value)

    async def test_says_what_answers_in_no_json(self) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=404, text="<html>")

        async with answering(answer) as url, pooled(url) as rpc:
            with pytest.raises(ChainUnreachable, match="status 404, no JSON"):
                await rpc.request("eth_chainId")

    def test_an_address_that_is_none_is_refused(self) -> None:
        with pytest.raises(BadRequest, match="http or https"):
            PooledExchange("ws://127.0.0.1:1")
        with pytest.raises(BadRequest, match="rpc_url: Port out of range"):
            PooledExchange("http://127.0.0.1:85450")


class TestMalformed:
    """What a broken or hostile endpoint says is one kind of error, whatever it says."""

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({}, "neither result nor error"),
            ({"error": {"code": None, "message": "too many"}}, "too many"),
            ({"error": {"code": "-32005", "data": "0xzz"}}, "error"),
        ],
    )
    async def test_response_is_an_error(self, said: dict[str, object], message: str) -> None:
        async def answer(asked: web.Request) -> web.Response:
            return web.json_response({"id": (await asked.json())["id"], **said})

        async with answering(answer) as url, pooled(url) as rpc:
            with pytest.raises(RpcFailed, match=message):
                await rpc.request("eth_call")

    @pytest.mark.parametrize(
        "block", [None, {}, {"number": 7, "timestamp": "0x1"}, {"number": "x", "timestamp": "0x1"}]
    )
    async def test_block_that_is_none_is_told(self, block: object) -> None:
        async def answer(asked: web.Request) -> web.Response:
            return web.json_response({"id": (await asked.json())["id"], "result": block})

        async with answering(answer) as url, pooled(url) as rpc:
            with pytest.raises(ChainUnreachable, match="shows no latest block"):
                await ChainClock(rpc).refresh()


async def test_a_clock_goes_on_following_after_an_error() -> None:
    blocks = iter([{"number": "0x1", "timestamp": "0x64"}, None, "refused", {"number": "0x2", "timestamp": "0xc8"}])
    last: dict[str, str] = {"number": "0x2", "timestamp": "0xc8"}

    async def answer(asked: web.Request) -> web.Response:
        block = next(blocks, last)
        said = {"error": {"code": -32000, "message": block}} if block == "refused" else {"result": block}
        return web.json_response({"jsonrpc": "2.0", "id": (await asked.json())["id"], **said})

    async with answering(answer) as url, pooled(url) as endpoint:
        clock = ChainClock(endpoint, refresh_seconds=0.02)
        await clock.start()
        try:
            assert (clock.block, clock.now()) == (1, 100)
            for _ in range(500):
                # What is known meanwhile is told.
                assert clock.now() >= 100
                await asyncio.sleep(0.01)
                if clock.block == 2:
                    break
            assert (clock.block, clock.now()) == (2, 200)
        finally:
            await clock.close()
