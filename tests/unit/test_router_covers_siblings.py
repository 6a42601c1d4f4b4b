"""Jobs that share a lease: whatever becomes of the answers to one, another has what it was admitted with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.lease_world import (
    LEASES,
    PAYER,
    Breaking,
    LeaseWorld,
    Slow,
    Stopping,
    hold,
    line,
    promise,
    promised,
    sell,
    tidied,
)

from retally.errors import InsufficientFunds, Unavailable
from retally_router.credit import Credit
from retally_router.earmark_scripts import PROMISE
from retally_router.store_errors import StoreUnreachable


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=1600)


@pytest.fixture
def store(world: LeaseWorld) -> Breaking:
    return Breaking(world.redis)


async def sharing(world: LeaseWorld, store: Any) -> Credit:
    """Two jobs that hold 100 each of one lease, which has nothing free."""
    credit = world.process(2, store)
    for job in "ab":
        await hold(credit, job, 100)
    (lease,) = credit.leases
    assert (lease.free, lease.taken) == (0, 200)
    return credit


async def sell_rest(world: LeaseWorld) -> None:
    """Another buys whatever is left."""
    await sell(world, world.balance - await promised(world) - await world.held())


class TestSibling:
    """Whatever becomes of the answers to one job, another on its lease has what it was admitted with."""

    @pytest.mark.parametrize("then", ["cover", "promise", "promise of more"])
    @pytest.mark.parametrize("how", ["is_late", "is_gone", "is_deaf"])
    async def test_after_a_hold_alone_that_nobody_heard_of(
        self, world: LeaseWorld, store: Breaking, how: str, then: str
    ) -> None:
        credit = await sharing(world, store)
        setattr(store, how, True)
        with pytest.raises(StoreUnreachable):
            await credit.cover("a", 150)
        setattr(store, how, False)
        if then == "cover":
            await credit.cover("a", 150)
        else:
            total = 100 if then == "promise" else 150
            assert await promise(credit, line(0), {"a": total}) == total
        await store.hear()
        await sell_rest(world)
        assert await promise(credit, line(1), {"b": 100}) == 100

    @pytest.mark.parametrize("how", ["is_late", "is_gone"])
    async def test_after_a_promise_that_nobody_heard_of(self, world: LeaseWorld, store: Breaking, how: str) -> None:
        credit = await sharing(world, store)
        setattr(store, how, True)
        with pytest.raises(StoreUnreachable):
            await promise(credit, line(0), {"a": 100})
        setattr(store, how, False)
        await credit.cover("a", 101)
        await sell_rest(world)
        assert await promise(credit, line(1), {"b": 100}) == 100

    async def test_after_a_promise_that_was_lost_while_a_cover_waited_for_it(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = await sharing(world, store)
        await sell(world, 1600 - 200 - 50)
        store.is_late = True
        store.gate.clear()
        promising = asyncio.create_task(promise(credit, line(0), {"a": 100}))
        await asyncio.sleep(0.01)
        covering = asyncio.create_task(credit.cover("a", 100))
        await asyncio.sleep(0.01)
        store.gate.set()
        found = await asyncio.gather(promising, return_exceptions=True)
        store.is_late = False
        assert [type(each) for each in found] == [StoreUnreachable]
        # All of it is promised: it needs all of it once more, and 50 are left.
        with pytest.raises(InsufficientFunds):
            await covering
        assert await promise(credit, line(1), {"b": 100}) == 100

    async def test_of_a_job_that_ended_with_its_cover_on_its_way(self, world: LeaseWorld) -> None:
        class Answering(Stopping):
            async def eval(self, script: str, *args: Any) -> Any:
                found = await self._redis.eval(script, *args)
                if self.is_closed and "local balance, used, cap" in script:
                    self.is_closed = False
                    self.is_there.set()
                    await self.gate.wait()
                return found

        store = Answering(world.redis)
        credit = world.process(2, store)
        await hold(credit, "a", 100)
        store.is_closed = True
        covering = asyncio.create_task(credit.cover("a", 250))
        await store.is_there.wait()
        covering.cancel()
        await credit.release(PAYER, "a")
        store.gate.set()
        await asyncio.sleep(0.05)
        for job in "bc":
            await hold(credit, job, 100)
        await sell_rest(world)
        for job in "bc":
            assert await promise(credit, line(ord(job)), {job: 100}) == 100

    async def test_what_an_ended_job_was_to_get_of_its_lease_is_free(self, world: LeaseWorld) -> None:
        world.balance, store = 100_000, Stopping(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a", 100)
        store.is_closed = True
        works = [asyncio.create_task(credit.cover("a", amount)) for amount in (1000, 300)]
        await store.is_there.wait()
        await asyncio.sleep(0.01)
        await credit.release(PAYER, "a")
        store.gate.set()
        found = await asyncio.gather(*works, return_exceptions=True)
        assert [type(each) for each in found] == [Unavailable, Unavailable]
        assert [lease.taken for lease in credit.leases] == [0]
        assert await tidied(world, credit) == 0


class Losing:
    """A store that loses its answer to the first promise, and hears the second only when it is let."""

    def __init__(self, redis: Any) -> None:
        self._redis, self._promises = redis, 0
        self.breaks_off, self.hears = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, *args: Any) -> Any:
        self._promises += script == PROMISE
        if script == PROMISE and self._promises == 2:
            await self.hears.wait()
        found = await self._redis.eval(script, *args)
        if script == PROMISE and self._promises == 1:
            await self.breaks_off.wait()
            raise StoreUnreachable("gone before it answered")
        return found


class TestPromiseUnheard:
    """What a job promised without an answer may be spent: at its end that is not given back out of another's part."""

    @pytest.mark.parametrize("ends", ["before", "after"])
    async def test_of_a_job_that_ended(self, world: LeaseWorld, ends: str) -> None:
        store = Losing(world.redis)
        credit = await sharing(world, store)
        unheard = asyncio.create_task(promise(credit, line(0), {"a": 100}))
        await asyncio.sleep(0.02)
        if ends == "before":
            await credit.release(PAYER, "a")
        store.breaks_off.set()
        with pytest.raises(StoreUnreachable):
            await unheard
        promising = asyncio.create_task(promise(credit, line(1), {"b": 100}))
        await asyncio.sleep(0.02)
        if ends == "after":
            # Also where giving back has found nothing wrong.
            await credit.tidy()
            await credit.release(PAYER, "a")
        await credit.tidy()
        await sell_rest(world)
        store.hears.set()
        assert await promising == 100
        await credit.release(PAYER, "b")
        assert (await promised(world), await tidied(world, credit), list(credit.leases)) == (1600, 0, [])

    async def test_all_that_is_left_goes_back_at_its_end(self, world: LeaseWorld) -> None:
        store = Losing(world.redis)
        credit = await sharing(world, store)
        unheard = asyncio.create_task(promise(credit, line(0), {"a": 40}))
        await asyncio.sleep(0.02)
        store.breaks_off.set()
        with pytest.raises(StoreUnreachable):
            await unheard
        await credit.release(PAYER, "a")
        await credit.tidy()
        assert await world.held() == 100


class TestFlying:
    @LEASES
    async def test_what_is_on_its_way_is_not_held_twice(self, world: LeaseWorld, lease_jobs: int) -> None:
        world.balance = 100
        credit = world.process(lease_jobs)
        await hold(credit, "a", 20)
        found = await asyncio.gather(
            promise(credit, line(0), {"a": 20}), credit.cover("a", 50), promise(credit, line(1), {"a": 10})
        )
        assert (found[0], found[2]) == (20, 10)
        assert await promised(world) == 30
        part = credit.leases.part_of("a")
        assert part is not None
        assert await tidied(world, credit) == part.left

    @pytest.mark.parametrize("count", [2, 3, 4])
    @pytest.mark.parametrize("own", [True, False])
    async def test_beside_one_that_nobody_heard_of_all_come_to_an_end(
        self, world: LeaseWorld, count: int, own: bool
    ) -> None:
        store = Breaking(Slow(world.redis, 0.002))
        credit = world.process(0, store)
        await hold(credit, "a", 10)
        store.is_gone = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, line(0), {"a": 10})
        store.is_gone = False
        lines = range(count) if own else range(1, count + 1)
        works = [promise(credit, line(number), {"a": 10 + number}) for number in lines]
        found = await asyncio.wait_for(asyncio.gather(*works), 5)
        assert found == [10 + number for number in lines]

    async def test_many_at_once_come_to_an_end(self, world: LeaseWorld) -> None:
        world.balance = 10**6
        credit = world.process(0)
        await hold(credit, "a", 1)
        found = await asyncio.gather(*(promise(credit, line(number), {"a": 10}) for number in range(50)))
        assert found == [10] * 50
        assert (await promised(world), await world.held()) == (500, 0)
