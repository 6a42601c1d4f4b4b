"""A job that is promised at several nodes: what those who refused it keep is held beside what the next one may bill."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from tests.fakes_router import FakeNode
from tests.lease_world import LEASES, PAYER, Breaking, LeaseWorld, hold, line, lose, promise, promised, sell
from tests.router_world import World, chat, check_error, router_world

from retally.errors import CapExceeded, EngineUnavailable, InsufficientFunds
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.pricing import PER
from retally_router.credit import Credit
from retally_router.credit_keys import credit_key
from retally_router.leases import IDLE_SECONDS
from retally_router.make_request import tokens_at_most
from retally_router.store_errors import StoreUnreachable

OTHER = SigningKey(keccak(b"another signer")).address


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=100)


class TestCover:
    """The hold of a job, made larger."""

    @LEASES
    async def test_two_nodes_are_promised_no_more_than_there_is(self, world: LeaseWorld, lease_jobs: int) -> None:
        credit = world.process(lease_jobs)
        await hold(credit, "a", 60)
        await promise(credit, line(0), {"a": 60})
        with pytest.raises(InsufficientFunds) as refused:
            await promise(credit, line(1), {"a": 60})
        assert (refused.value.needed, refused.value.available) == (60, 40)
        assert await promise(credit, line(1), {"a": 40}) == 40
        await credit.release(PAYER, "a")
        assert (await promised(world), await world.held()) == (100, 0)

    @LEASES
    async def test_both_at_once(self, world: LeaseWorld, lease_jobs: int) -> None:
        credit = world.process(lease_jobs)
        await hold(credit, "a", 60)
        found = await asyncio.gather(
            *(promise(credit, line(number), {"a": 60}) for number in (0, 1)), return_exceptions=True
        )
        assert [type(each) for each in found if isinstance(each, Exception)] == [InsufficientFunds]
        assert await promised(world) == 60

    @LEASES
    async def test_it_is_held_before_anything_is_promised(self, world: LeaseWorld, lease_jobs: int) -> None:
        credit, other = world.process(lease_jobs), world.process(0)
        await hold(credit, "a", 20)
        await promise(credit, line(0), {"a": 5})
        await credit.cover("a", 20)
        with pytest.raises(InsufficientFunds):
            await hold(other, "b", 76)
        await credit.tidy()
        await hold(other, "b", 75)
        assert await promise(credit, line(1), {"a": 20}) == 20
        await credit.release(PAYER, "a")
        await credit.close()
        assert (await promised(world), await world.held()) == (25, 75)

    @LEASES
    async def test_what_it_holds_anyhow_asks_nobody(self, world: LeaseWorld, lease_jobs: int) -> None:
        credit = world.process(lease_jobs)
        await hold(credit, "a", 20)
        before = await world.scripts()
        await credit.cover("a", 20)
        await credit.cover("nobody's", 20)
        assert await world.scripts() == before

    async def test_what_a_lease_has_free_is_taken_first(self, world: LeaseWorld) -> None:
        world.balance, credit = 10_000, world.process()
        await hold(credit, "a")
        before = await world.scripts()
        await credit.cover("a", 80)
        assert (await world.scripts(), await world.held()) == (before, 80)
        # For more the job holds alone, and takes with it what the lease had for it.
        await credit.cover("a", 100)
        assert (await world.scripts(), await world.held()) == (before + 1, 100)

    @LEASES
    async def test_at_the_cap_of_its_signer(self, world: LeaseWorld, lease_jobs: int) -> None:
        world.cap, credit = 30, world.process(lease_jobs)
        await hold(credit, "a", 20)
        await credit.cover("a", 30)
        with pytest.raises(CapExceeded):
            await credit.cover("a", 31)
        # It keeps what it had.
        assert await promise(credit, line(0), {"a": 30}) == 30

    async def test_what_others_leased_comes_back_first(self, world: LeaseWorld) -> None:
        world.balance = 1000
        credit, other = world.process(0), world.process()
        await hold(credit, "a", 20)
        await hold(other, "b")
        tidying = asyncio.create_task(_keep_tidy(other))
        await credit.cover("a", 990)
        tidying.cancel()
        assert await world.held() == 1000

    async def test_a_lease_of_its_own_that_is_free_is_no_reason_to_refuse(self, world: LeaseWorld) -> None:
        world.balance, credit = 1000, world.process()
        await hold(credit, "a")
        await hold(credit, "b", signer=OTHER)
        await credit.cover("a", 990)
        assert await world.held() == 1000


class TestStoreLost:
    """What a store forgets or breaks off over is sold to nobody twice."""

    @LEASES
    async def test_it_forgot_the_hold(self, world: LeaseWorld, lease_jobs: int) -> None:
        credit = world.process(lease_jobs)
        await hold(credit, "a", 20)
        await promise(credit, line(0), {"a": 10})
        await lose(world)
        await credit.cover("a", 20)
        await sell(world, 80)
        assert await promise(credit, line(1), {"a": 20}) == 20
        assert await world.held() == 0

    @LEASES
    @pytest.mark.parametrize("how", ["is_gone", "is_late", "is_deaf"])
    async def test_it_breaks_off(self, world: LeaseWorld, lease_jobs: int, how: str) -> None:
        store = Breaking(world.redis)
        credit = world.process(lease_jobs, store)
        await hold(credit, "a", 20)
        await promise(credit, line(0), {"a": 20})
        setattr(store, how, True)
        with pytest.raises(StoreUnreachable):
            await credit.cover("a", 30)
        setattr(store, how, False)
        await store.hear()
        assert await promise(credit, line(1), {"a": 20}) == 20
        await credit.release(PAYER, "a")
        world.now += IDLE_SECONDS + 0.1
        for _ in range(2):
            await credit.tidy()
        assert (await promised(world), await world.held()) == (40, 0)

    @LEASES
    async def test_a_job_that_ends_meanwhile_leaves_nothing(self, world: LeaseWorld, lease_jobs: int) -> None:
        store = Breaking(world.redis)
        credit = world.process(lease_jobs, store)
        await hold(credit, "a", 20)
        store.gate.clear()
        leaving = asyncio.create_task(credit.cover("a", 90))
        await asyncio.sleep(0.01)
        leaving.cancel()
        ending = asyncio.create_task(credit.release(PAYER, "a"))
        await asyncio.sleep(0.01)
        store.gate.set()
        await asyncio.wait([leaving, ending])
        await asyncio.sleep(0.05)
        for _ in range(2):
            await credit.tidy()
        await credit.close()
        assert leaving.cancelled()
        assert await world.held() == 0


async def _keep_tidy(credit: Credit) -> None:
    while True:
        await credit.tidy()
        await asyncio.sleep(0.02)


BUSY = EngineUnavailable("no engine")


async def sold(redis: Any, payer: Address) -> int:
    """All that is promised of a payer's deposit."""
    rows = await redis.hgetall(credit_key(payer))
    return sum(int(value) for name, value in rows.items() if name.startswith(b"promised:"))


async def ask(world: World, funds: int, order: list[FakeNode]) -> tuple[httpx.Response, int]:
    """One answer for a payer with so much, nodes in that order; and what is promised of it then."""
    payer = SigningKey(keccak(b"payer of %d" % funds))
    key = await world.create_key(payer, fund=funds)
    answer = await world.http.post(
        "/v1/chat/completions",
        json=chat(max_tokens=100, provider={"order": [node.address for node in order]}),
        headers={"authorization": f"Bearer {key['apiKey']}"},
    )
    assert await world.settled()
    return answer, await sold(world.redis, payer.address)


@LEASES
class TestNodesInTurn:
    """A whole router whose nodes refuse jobs, or leave them in the middle."""

    async def test_those_that_refused_are_held_beside_the_one_that_serves(
        self, redis_url: str, lease_jobs: int
    ) -> None:
        serving, busy = FakeNode("a"), [FakeNode(name, refuse=BUSY) for name in "bc"]
        async with router_world(redis_url, [serving, *busy], credit_lease_jobs=lease_jobs) as world:
            alone, fee_promised = await ask(world, 10**6, [serving])
            assert alone.status_code == 200, alone.text
            _, all_promised = await ask(world, 10**6 + 1, [*busy, serving])
            kept = all_promised - fee_promised
            assert kept > 0
            bound = tokens_at_most({"messages": chat()["messages"]})
            needed = kept + (bound * serving.price_in + 100 * serving.price_out) // PER
            enough, total = await ask(world, needed, [*busy, serving])
            assert enough.status_code == 200, enough.text
            assert total <= needed
            answered = len(serving.jobs)
            short, total = await ask(world, needed - 1, [*busy, serving])
            check_error(short, 402, "insufficient_funds")
            assert total <= needed - 1
            assert len(serving.jobs) == answered

    async def test_an_answer_goes_on_with_what_is_left(self, redis_url: str, lease_jobs: int) -> None:
        dying, other = FakeNode("a", die_after=6), FakeNode("b")
        async with router_world(redis_url, [dying, other], credit_lease_jobs=lease_jobs) as world:
            await ask(world, 10**6, [dying, other])
            most = dying.jobs[-1].request.max_fee
            answer, total = await ask(world, most, [dying, other])
            assert answer.status_code == 200, answer.text
            assert (len(dying.jobs), len(other.jobs)) == (2, 2)
            assert total <= most

    async def test_an_answer_goes_on_though_the_chain_is_away(self, redis_url: str, lease_jobs: int) -> None:
        dying, other = FakeNode("a", die_after=40, seconds_per_token=0.02), FakeNode("d")
        busy = [FakeNode(name, refuse=BUSY) for name in "bc"]
        async with router_world(
            redis_url, [dying, other, *busy], credit_lease_jobs=lease_jobs, max_attempts=5
        ) as world:
            asking = asyncio.create_task(ask(world, 10**6, [*busy, dying, other]))
            await asyncio.sleep(0.6)
            assert dying.jobs
            world.chain.dead = True
            answer, _ = await asking
            assert answer.status_code == 200, answer.text
            assert len(other.jobs) == 1

    async def test_where_one_is_too_dear_a_cheaper_one_is_tried(self, redis_url: str, lease_jobs: int) -> None:
        dear, cheap = FakeNode("d", price_out=30_000_000), FakeNode("z")
        busy = [FakeNode(name, price_out=30_000_000, refuse=BUSY) for name in "bc"]
        async with router_world(redis_url, [dear, cheap, *busy], credit_lease_jobs=lease_jobs, max_attempts=5) as world:
            assert (await ask(world, 10**6, [dear]))[0].status_code == 200
            most = dear.jobs[-1].request.max_fee
            answer, total = await ask(world, most, [*busy, dear, cheap])
            assert answer.status_code == 200, answer.text
            assert (len(dear.jobs), len(cheap.jobs)) == (1, 1)
            assert total <= most
            # Nobody says of the dear one that it failed.
            failures = (await world.http.get("/metrics")).text
            assert all(f'node="{node.address}"' in failures for node in busy)
            assert f'node_failures_total{{code="insufficient_funds",node="{dear.address}"}}' not in failures

    async def test_a_cheap_one_far_behind_is_tried(self, redis_url: str, lease_jobs: int) -> None:
        busy = FakeNode("b", price_out=30_000_000, refuse=BUSY)
        dear = [FakeNode(name, price_out=30_000_000) for name in "cde"]
        # Dearer by what it asks for input, which is next to nothing of what it may bill.
        cheap = FakeNode("z", price_in=2_000_001)
        nodes = [busy, *dear, cheap]
        async with router_world(redis_url, nodes, credit_lease_jobs=lease_jobs, max_attempts=3) as world:
            assert (await ask(world, 10**6, [dear[0]]))[0].status_code == 200
            most = dear[0].jobs[-1].request.max_fee
            answer, total = await ask(world, most, [busy, *dear, cheap])
            assert answer.status_code == 200, answer.text
            assert total <= most
