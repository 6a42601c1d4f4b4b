"""One endpoint of a chain: what a cancelled request leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web
from web3._utils.http_session_manager import HTTPSessionManager

from retally.chain.rpc import Rpc

ROUNDS = 40


@pytest_asyncio.fixture
async def rpc() -> AsyncIterator[Rpc]:
    """An endpoint that answers every request with its block number, a little late."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(0.002)
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": "0x7"})

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    endpoint = Rpc(f"http://127.0.0.1:{port}")
    yield endpoint
    await endpoint.close()
    await runner.cleanup()


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
