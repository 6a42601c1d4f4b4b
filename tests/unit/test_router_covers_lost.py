"""What covers a promise once a lease is lost or in doubt, or the store is asked in another order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.lease_world import (
    PAYER,
    Breaking,
    InOrder,
    LeaseWorld,
    Overtaken,
    hold,
    line,
    lose,
    open_later,
    promise,
    promised,
    sell,
)
from tests.router_world import database_url

from retally.errors import ChainUnreachable, InsufficientFunds, PaymentRequired, Unavailable
from retally.protocol.eip712 import Address
from retally_router.credit import Credit
from retally_router.end_tasks import end_tasks
from retally_router.joined_redis import open_store
from retally_router.leases import EXPIRED_SECONDS, IDLE_SECONDS, MOST_AGE_SECONDS
from retally_router.ports import Standing
from retally_router.store_errors import StoreUnreachable


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=160)


class TestLostLease:
    async def test_one_that_expired_promises_nothing_that_others_hold(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        world.now += MOST_AGE_SECONDS - 10
        await hold(credit, "b")
        # The second took of the first one's block: its hold is young, and gone.
        world.now += EXPIRED_SECONDS - MOST_AGE_SECONDS + 20
        await credit.tidy()
        await sell(world, 155)
        with pytest.raises(InsufficientFunds, match="10 needed, 5 available"):
            await promise(credit, line(0), {"b": 10})
        world.balance += 5
        assert await promise(credit, line(0), {"b": 10}) == 10

    @pytest.mark.parametrize("ends", ["close", "tidy"])
    async def test_a_block_for_one_that_is_lost_meanwhile_goes_back(self, world: LeaseWorld, ends: str) -> None:
        world.balance = 800
        credit, other = world.process(8, InOrder(world.redis)), world.process(0)
        await hold(credit, "a", 100)
        await lose(world)
        await hold(other, "x", 720)
        found = asyncio.gather(promise(credit, line(0), {"a": 100}), hold(credit, "b", 1), return_exceptions=True)
        refused, held = await asyncio.wait_for(found, 15)
        assert (type(refused), held) == (InsufficientFunds, None)
        for job in "ab":
            await credit.release(PAYER, job)
        world.now += IDLE_SECONDS + 0.1
        for _ in range(2):
            await asyncio.wait_for(getattr(credit, ends)(), 5)
        assert (await world.held(), list(credit.leases)) == (720, [])

    async def test_a_refusal_waits_for_nobody(self, world: LeaseWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        credit, dead = world.process(), world.process()
        await hold(credit, "a")
        await lose(world)
        await hold(dead, "b")
        await hold(world.process(0), "c", 139)

        async def sleep(seconds: float) -> None:
            pytest.fail("it waits")

        monkeypatch.setattr("retally_router.asking.asyncio.sleep", sleep)
        with pytest.raises(InsufficientFunds):
            await promise(credit, line(0), {"a": 10})

    async def test_a_job_that_ends_as_its_cover_is_missed_is_promised_nothing(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        await lose(world)
        store.gate.clear()
        promising = asyncio.create_task(promise(credit, line(0), {"a": 5}))
        await asyncio.sleep(0.05)
        await asyncio.gather(credit.release(PAYER, "a"), open_later(store))
        with pytest.raises(Unavailable, match="ended"):
            await promising
        await credit.tidy()
        await credit.tidy()
        assert (await promised(world), await world.held(), list(credit.leases)) == (0, 0, [])


class TestDoubt:
    async def test_a_block_in_doubt_goes_back_while_jobs_of_its_lease_run(self, world: LeaseWorld) -> None:
        world.balance, store = 1600, Breaking(world.redis)
        credit = world.process(2, store)
        for job in "ab":
            await hold(credit, job, 100)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await hold(credit, "c", 100)
        store.is_late, store.is_deaf = False, True
        with pytest.raises(StoreUnreachable):
            await hold(credit, "d", 100)
        store.is_deaf = False
        await credit.tidy()
        assert (await world.held(), await world.open_leases()) == (200, [])
        await store.hear()
        assert await world.held() == 200
        await credit.release(PAYER, "a")
        await promise(credit, line(0), {"b": 60})
        assert (await world.held(), await promised(world)) == (40, 60)

    async def test_a_giving_back_in_doubt_is_done_again(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        world.now += IDLE_SECONDS + 0.1
        store.is_gone = True
        with pytest.raises(StoreUnreachable):
            await credit.tidy()
        store.is_gone = False
        await credit.tidy()
        assert (await world.held(), await world.open_leases()) == (10, [])

    async def test_a_chain_that_is_away_puts_nothing_in_doubt(self, world: LeaseWorld) -> None:
        looks = iter([None, None, None, ChainUnreachable("away")])

        async def standing(payer: Address, signer: Address, fresh: bool) -> Standing:
            if error := next(looks, None):
                raise error
            return await world.standing(payer, signer, fresh)

        credit = Credit(world.redis, standing, lambda: world.now, lease_jobs=1, ticks=world.ticks)
        await hold(credit, "a")
        with pytest.raises(ChainUnreachable):
            await hold(credit, "b")
        (lease,) = credit.leases
        assert not lease.is_retired
        await hold(credit, "c")
        assert len(list(credit.leases)) == 1


class TestOrder:
    """No promise is refused because another overtook it."""

    @pytest.mark.parametrize("lease_jobs", [0, 4])
    @pytest.mark.parametrize("client", ["joined", "plain"])
    async def test_none_is_refused_while_the_store_is_whole(
        self, world: LeaseWorld, redis_url: str, client: str, lease_jobs: int
    ) -> None:
        world.balance = 600
        async with stores(redis_url, client) as opened:
            processes = [world.process(lease_jobs, store) for store in opened]
            beside = [asyncio.create_task(work) for work in (forget_scripts(world), tidy(processes))]

            async def job(number: int) -> None:
                credit, name = processes[number % 3], f"{number:02x}"
                try:
                    await hold(credit, name)
                except PaymentRequired:
                    return
                # To two nodes at once, and once more to one of them.
                await asyncio.gather(
                    *(promise(credit, line(2 * number + node), {name: 3}) for node in (0, 1)),
                    asyncio.sleep(0.01 * (number % 3)),
                )
                assert await promise(credit, line(2 * number), {name: 7}) == 7
                await credit.release(PAYER, name)

            await asyncio.gather(*(job(number) for number in range(90)))
            await end_tasks(beside)
            for credit in processes:
                await credit.close()
        assert (await promised(world), await world.held()) == (600, 0)

    async def test_one_that_another_of_its_lease_overtook(self, world: LeaseWorld) -> None:
        credit = world.process(2, Overtaken(world.redis))
        for job in "ab":
            await hold(credit, job)
        await hold(world.process(0), "x", 140)
        asks = [promise(credit, line(number), {job: 10}) for number, job in enumerate("ab")]
        assert await asyncio.gather(*asks) == [10, 10]


async def tidy(processes: list[Credit]) -> None:
    while True:
        await asyncio.sleep(0.1)
        for credit in processes:
            await credit.tidy()


async def forget_scripts(world: LeaseWorld) -> None:
    while True:
        await world.redis.script_flush()
        await asyncio.sleep(0.003)


@asynccontextmanager
async def stores(redis_url: str, client: str) -> AsyncIterator[list[Any]]:
    """Three processes' clients: joined ones, or redis-py's with their many connections."""
    url = database_url(redis_url, 6) + ("?health_check_interval=30" if client == "plain" else "")
    opened = [open_store(url, 5.0) for _ in range(3)]
    try:
        yield opened
    finally:
        for store in opened:
            await store.aclose()
