"""Limits of one API key: on every route that costs, over all replicas, mostly without asking Redis."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL
from tests.router_world import ASSET, DATABASE, World, chat, check_error, database_url, router_world

from retally.errors import BadRequest, PaymentRequired, RateLimited
from retally.protocol.key_limits import KeyLimits
from retally_router.allowance import Allowances
from retally_router.store_errors import StoreUnreachable

MINUTE = 60


class Watched:
    """A Redis that counts what it is asked, and can be away."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.asked, self.away = redis, 0, False

    async def eval(self, *args: Any) -> Any:
        self.asked += 1
        if self.away:
            raise StoreUnreachable("away")
        return await self.redis.eval(*args)


class Times:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(database_url(redis_url, DATABASE)) as made:
        await made.flushdb()
        yield made


def replica(redis: Any, name: str, *, lease_seconds: float = 10.0, clock: Any = None) -> Allowances:
    """One router's view of the allowances."""
    more = {} if clock is None else {"clock": clock}
    return Allowances(redis, holder=name, lease_seconds=lease_seconds, **more)


async def count(replicas: list[Allowances], limits: KeyLimits, tries: int, **most: int) -> int:
    """How many of so many requests are let through, in turn over the replicas; nothing is settled."""
    granted = 0
    for number in range(tries):
        try:
            await replicas[number % len(replicas)].hold("k", limits, **{"tokens": 1, "amount": 1, **most})
            granted += 1
        except (RateLimited, PaymentRequired):
            continue
    return granted


class TestLeases:
    @pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "spend_per_day", "spend_total"])
    async def test_replicas_together_never_exceed_a_limit_and_nearly_reach_it(self, redis: Redis, name: str) -> None:
        replicas = [replica(redis, str(number)) for number in range(3)]
        granted = await count(replicas, KeyLimits(**{name: 200}), 600)
        assert 197 <= granted <= 200

    async def test_most_requests_ask_redis_nothing(self, redis: Redis) -> None:
        watched = Watched(redis)
        await count([replica(watched, "a")], KeyLimits(requests_per_minute=10_000), 5000)
        assert watched.asked < 60

    async def test_what_a_job_did_not_use_is_there_again(self, redis: Redis) -> None:
        one, limits = replica(redis, "a"), KeyLimits(spend_total=100)
        for _ in range(30):
            held = await one.hold("k", limits, tokens=1, amount=8)
            held.settle(1, 3)
            held.settle(1, 3)
        await one.close()
        assert await count([replica(redis, "b")], limits, 50) == 10

    async def test_closed_routers_give_their_lease_back_at_once(self, redis: Redis) -> None:
        one, limits = replica(redis, "a"), KeyLimits(spend_total=80)
        (await one.hold("k", limits, tokens=1, amount=5)).settle(1, 5)
        await one.close()
        assert await count([replica(redis, "b")], limits, 100) == 75

    async def test_crashed_routers_lease_counts_as_spent_since_nobody_knows_what_it_began(self, redis: Redis) -> None:
        limits = KeyLimits(spend_total=80)
        crashed = replica(redis, "crashed", lease_seconds=0.05)
        for _ in range(2):
            await crashed.hold("k", limits, tokens=1, amount=5)
        await asyncio.sleep(0.1)
        assert await count([replica(redis, "b")], limits, 100) == 70

    async def test_serves_on_while_redis_is_away_until_the_lease_ends(self, redis: Redis) -> None:
        clock = Times()
        watched, limits = Watched(redis), KeyLimits(requests_per_minute=800)
        one = replica(watched, "a", clock=clock)
        await one.hold("k", limits, tokens=1, amount=1)
        watched.away = True
        with pytest.raises(StoreUnreachable):
            await one.renew()
        for _ in range(50):
            await one.hold("k", limits, tokens=1, amount=1)
        clock.time = 11.0
        with pytest.raises(StoreUnreachable):
            await one.hold("k", limits, tokens=1, amount=1)
        watched.away = False
        await one.hold("k", limits, tokens=1, amount=1)
        fields = await redis.hgetall("retally:{key-k}:use")
        assert sum(int(value) for name, value in fields.items() if name.startswith(b"rpm:")) == 51

    async def test_last_minutes_use_wears_off_by_and_by(self, redis: Redis) -> None:
        # No boundary to wait for: a burst at the end of a minute leaves little for the start of the next.
        seconds, _ = await redis.time()
        await redis.hset("retally:{key-k}:use", f"rpm:{int(seconds) // MINUTE - 1}", 100)
        left = 1 - (int(seconds) % MINUTE) / MINUTE
        granted = await count([replica(redis, "a")], KeyLimits(requests_per_minute=100), 110)
        assert abs(granted - (100 - 100 * left)) <= 4

    async def test_parallel_requests_share_one_round_trip(self, redis: Redis) -> None:
        watched, limits = Watched(redis), KeyLimits(requests_per_minute=4000)
        one = replica(watched, "a")
        await asyncio.gather(*[one.hold("k", limits, tokens=1, amount=1) for _ in range(100)])
        assert watched.asked == 1

    async def test_keeper_renews_and_lets_go_of_idle_keys(self, redis: Redis) -> None:
        one, limits = replica(redis, "a", lease_seconds=0.2), KeyLimits(spend_total=80)
        await one.start()
        held = await one.hold("k", limits, tokens=1, amount=7)
        await asyncio.sleep(0.5)
        assert b"total@a" in await redis.hgetall("retally:{key-k}:use")
        held.settle(1, 7)
        await asyncio.sleep(0.3)
        assert await redis.hgetall("retally:{key-k}:use") == {b"total:0": b"7"}
        await one.close()


class TestWire:
    @pytest.mark.parametrize("value", [{"x": 1}, {"spendTotal": 0}, {"spendTotal": -1}, {"spendTotal": 2**53}, 5, []])
    def test_unfit_limits_are_refused(self, value: object) -> None:
        with pytest.raises(BadRequest):
            KeyLimits.from_wire(value)


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url, [FakeNode("a")]) as built:
        yield built


async def use_key(world: World, **limits: int) -> None:
    world.api_key = (await world.create_key(world.payer, limits=limits))["apiKey"]


ROUTES = {
    "chat/completions": chat(),
    "completions": {"model": MODEL, "prompt": "count", "max_tokens": 9},
    "responses": {"model": MODEL, "input": "count", "max_output_tokens": 9},
}


class TestRoutes:
    async def test_one_limit_holds_over_all_routes_that_cost(self, world: World) -> None:
        await use_key(world, requestsPerMinute=3)
        for path, body in ROUTES.items():
            answer = await world.http.post(f"/v1/{path}", json=body, headers=world.auth)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        for path, body in ROUTES.items():
            answer = await world.http.post(f"/v1/{path}", json=body, headers=world.auth)
            error = check_error(answer, 429, "rate_limit_exceeded")
            assert error["type"] == "rate_limit_error"
            assert error["details"]["limit"] == "requestsPerMinute"
            assert 1 <= int(answer.headers["retry-after"]) <= MINUTE
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert answer.headers["x-ratelimit-reset-requests"].endswith("s")

    async def test_tokens_count_as_they_came_not_as_they_were_feared(self, world: World) -> None:
        await use_key(world, tokensPerMinute=2000)
        for seed in range(10):
            answer = await world.ask(seed=seed, max_tokens=400)
            assert answer.status_code == 200, answer.text
        check_error(await world.ask(max_tokens=10_000, n=2), 429, "rate_limit_exceeded")

    async def test_spending_stops_at_the_day_and_at_the_total(self, world: World) -> None:
        cost = int((await world.ask()).headers["x-retally-cost"])
        await use_key(world, spendPerDay=1)
        error = check_error(await world.ask(), 429, "rate_limit_exceeded")
        assert error["details"]["limit"] == "spendPerDay"
        await use_key(world, spendTotal=100 * cost)
        assert (await world.ask()).status_code == 200
        await use_key(world, spendTotal=1)
        answer = await world.ask()
        check_error(answer, 402, "key_limit_exceeded")
        assert stated(answer)["accepts"][0]["extra"]["action"] == "createKey"

    async def test_an_answer_broken_off_counts_what_its_node_may_bill(self, world: World) -> None:
        await use_key(world, spendTotal=10**6)
        world.nodes[0].seconds_per_token = 0.01
        async with world.http.stream("POST", "/v1/chat/completions", json=chat(stream=True), headers=world.auth) as got:
            await anext(got.aiter_bytes())
        await world.nodes[0].rest()
        await asyncio.sleep(0.1)
        ((receipt, _),) = next(iter(world.nodes[0].receipts.values()))
        await world.router.allowances.close()
        use = await world.redis.hgetall(next(iter(await world.redis.keys("retally:{key-*:use"))))
        assert receipt.fee <= int(use[b"total:0"]) < 10**4

    async def test_refusals_for_money_give_the_allowance_back(self, world: World) -> None:
        await use_key(world, tokensPerMinute=3000, spendTotal=10**6)
        world.chain.fund(world.payer.address, balance=1)
        await asyncio.sleep(0.1)
        for _ in range(20):
            check_error(await world.ask(), 402, "insufficient_funds")
        world.chain.fund(world.payer.address)
        await asyncio.sleep(0.1)
        assert (await world.ask()).status_code == 200

    async def test_limits_are_signed_by_the_payer_and_shown(self, world: World) -> None:
        made = await world.create_key(world.payer, limits={"spendTotal": 5})
        assert made["limits"] == {"spendTotal": "5"}
        body = {
            "payer": world.payer.address,
            "cap": "5",
            "expiry": 2**39,
            "deadline": 2**39,
            "limits": {"spendTotal": 6},
        }
        answer = await world.http.post("/retally/v1/keys", json={**body, "signature": "0x" + "11" * 64})
        assert answer.status_code == 401


def stated(answer: Any) -> dict[str, Any]:
    return dict(json.loads(b64decode(answer.headers["payment-required"])))


class TestPaymentRequired:
    async def test_402_says_in_x402s_header_what_to_pay_where_and_how(self, world: World) -> None:
        world.chain.fund(world.payer.address, balance=1)
        await asyncio.sleep(0.1)
        answer = await world.ask()
        details = check_error(answer, 402, "insufficient_funds")["details"]
        terms = stated(answer)
        assert terms["x402Version"] == 2
        assert terms["resource"]["url"] == f"{world.url}/v1/chat/completions"
        (way,) = terms["accepts"]
        assert way["network"] == f"eip155:{DOMAIN.chain_id}"
        assert (way["payTo"], way["asset"]) == (DOMAIN.escrow, ASSET)
        assert int(way["amount"]) == int(details["required"]) - int(details["available"])
        assert way["extra"]["action"] == "deposit"

    async def test_a_cap_is_raised_not_paid(self, world: World) -> None:
        world.chain.fund(world.payer.address, cap=1)
        await asyncio.sleep(0.1)
        answer = await world.ask()
        check_error(answer, 402, "cap_exceeded")
        assert stated(answer)["accepts"][0]["extra"]["action"] == "authorizeSigner"
