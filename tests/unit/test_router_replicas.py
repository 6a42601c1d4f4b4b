"""Several routers over one Redis: one deposit spent to its last unit, a clean stop, a store spread over a cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import httpx
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from tests.fakes_router import FakeNode
from tests.fakes_world import NOW, served
from tests.lease_world import promise
from tests.router_world import DATABASE, World, chat, database_url, router_world
from tests.serve_router import Orders, RouterProcess, free_port

import exhaust_deposit
from retally.devnet.redis_server import RedisServer
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.pricing import PER
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.open_segments import UNSEEN_TOKENS, OpenSegment
from retally_router.ports import Standing

PAYER, SIGNER, NODE = (SigningKey(keccak(name)).address for name in (b"payer", b"session", b"node"))
CHANNEL = ChannelId(PAYER, SIGNER, NODE, 0)


class TestDeposit:
    async def test_two_routers_one_killed_half_way_spend_it_to_the_last_unit(self, tmp_path: Path) -> None:
        figures = await exhaust_deposit.measure(200, 12, "SIGKILL", tmp_path)
        assert exhaust_deposit.faults_of(figures) == [], figures


async def rich(*_: object) -> Standing:
    return Standing(balance=100, used=0, cap=1000, expiry=NOW)


class TestHolds:
    @pytest.fixture
    async def credit(self, redis_url: str) -> AsyncIterator[Credit]:
        async with Redis.from_url(database_url(redis_url, DATABASE)) as redis:
            await redis.flushdb()
            yield Credit(redis, rich)

    async def test_what_is_promised_for_a_job_is_not_held_for_it_as_well(self, credit: Credit) -> None:
        await credit.hold(PAYER, SIGNER, "aa", 50)
        await promise(credit, CHANNEL, {"aa": 50})
        await credit.hold(PAYER, SIGNER, "bb", 50)

    async def test_what_is_held_beyond_the_promise_stays_held(self, credit: Credit) -> None:
        await credit.hold(PAYER, SIGNER, "aa", 50)
        await promise(credit, CHANNEL, {"aa": 20})
        assert await credit.holds(PAYER, SIGNER) == [("aa", 0)]
        with pytest.raises(Exception, match="60 needed, 50 available"):
            await credit.hold(PAYER, SIGNER, "bb", 60)

    async def test_hold_outlives_the_answer_until_all_of_it_is_promised(self, redis_url: str) -> None:
        # Low input, so that the first voucher prepays no output.
        node = FakeNode("a", price_in=20_000)
        async with router_world(redis_url, [node], credit_lease_jobs=0) as world:
            place = f"retally:{{{world.payer.address}}}:credit"
            assert (await world.ask()).status_code == 200
            assert await world.settled()
            held = [name for name in await world.redis.hkeys(place) if name.startswith(b"hold:")]
            assert held == []
            (account,) = world.router.channels.accounts()
            key, start, to = (b"\xaa", 0, 0), account.tiling.closed, account.promised + 1
            account.admit({key: OpenSegment(to * PER, 0, 0, "aa")})
            account.close(key, cast(JobReceipt, SimpleNamespace(cum_from=start, cum_to=to, fee=to - start)))
            assert not account.has_promised(b"\xaa")
            await world.router.settle.release(world.payer.address, "aa", account)
            assert account.has_promised(b"\xaa"), "released before the promise was on record"
            assert account.promised == account.wanted == to

    def test_no_job_is_promised_more_than_it_can_cost(self) -> None:
        segment = OpenSegment(input_cost=0, price_out=6_000_000, max_output=3, place="")
        assert segment.upper + segment.slack == segment.limit == 18
        assert OpenSegment(0, 6_000_000, 1000, "").slack == 6 * UNSEEN_TOKENS + 1


class TestStop:
    async def test_sigterm_lets_running_answers_end_and_pays_them(
        self, redis_url: str, redis: Redis, tmp_path: Path
    ) -> None:
        node = FakeNode("a", seconds_per_token=0.05)
        async with served(node) as node.url:
            payer = exhaust_deposit.payer_key().address
            orders = Orders(
                database_url(redis_url, redis.get_connection_kwargs()["db"]),
                free_port(),
                0,
                {"a": node.url},
                {payer: 10**9},
                node.price_in,
                node.price_out,
            )
            router = RouterProcess(orders, tmp_path)
            await asyncio.to_thread(router.start)
            try:
                text = await self._stop_in_mid_answer(router)
                assert await asyncio.to_thread(router.wait) in (0, -signal.SIGTERM)
            finally:
                router.kill()
            assert text.endswith("data: [DONE]\n\n"), (text, router.log.read_text())
            (line,) = node.lines.values()
            assert line.best >= line.cum_to > 0

    async def _stop_in_mid_answer(self, router: RouterProcess) -> str:
        async with aiohttp.ClientSession() as session:
            key = await exhaust_deposit.create_key(session, router.url)
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx.AsyncClient(base_url=router.url, timeout=20, trust_env=False) as http,
            http.stream("POST", "/v1/chat/completions", json=chat(stream=True), headers=headers) as answer,
        ):
            parts = answer.aiter_text()
            text = await anext(parts)
            router.signal(signal.SIGTERM)
            return text + "".join([part async for part in parts])


class Slots:
    """A Redis that notes the slots of every script's keys."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.seen: list[set[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, count: int, *args: Any) -> Any:
        keys = [str(key).encode() for key in args[:count]]
        assert keys, script
        self.seen.append({key_slot(key) for key in keys})
        return await self._redis.eval(script, count, *args)


class TestStore:
    async def test_keys_of_each_script_lie_in_one_slot_and_payers_in_different_ones(self, redis: Redis) -> None:
        slots = Slots(redis)
        credit = Credit(slots, rich)
        for number in range(20):
            payer = SigningKey(keccak(b"%d" % number)).address
            await credit.hold(payer, SIGNER, "aa", 5)
            await promise(credit, ChannelId(payer, SIGNER, NODE, 0), {"aa": 5})
            await credit.release(payer, "aa", settled=["0xaa"])
        assert all(len(found) == 1 for found in slots.seen)
        assert len(set.union(*slots.seen)) >= 18

    async def test_without_its_store_the_router_says_503_and_why_and_comes_back(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path / "redis", mark=str(tmp_path))
        await server.start()
        try:
            async with router_world(server.url, [FakeNode("a")]) as world:
                assert (await world.ask()).status_code == 200
                assert await world.settled()
                await server.stop()
                await self._refused(world)
                await server.start()
                for _ in range(100):
                    if (answer := await world.ask()).status_code != 503:
                        break
                    await asyncio.sleep(0.1)
                assert answer.status_code in (200, 401), answer.text
        finally:
            await server.stop()

    async def _refused(self, world: World) -> None:
        answer = await world.ask()
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert "store does not answer" in error["message"]
        assert answer.headers["retry-after"] == "1"
