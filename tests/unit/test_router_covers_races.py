"""What covers a job is made larger while promises are made of it, jobs end, leases go back and a store breaks off."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from tests.lease_world import LEASES, PAYER, Breaking, LeaseWorld, Stopping, hold, line, promise, promised, sell, tidied

from retally.errors import InsufficientFunds, Unavailable
from retally_router.credit_keys import ended_key
from retally_router.patience import Patience
from retally_router.store_errors import StoreUnreachable


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=1000)


class TestJobThatEnds:
    """Of a job that ends in the middle nothing is promised without cover, and nothing stays held."""

    @LEASES
    async def test_while_its_promise_is_covered(self, world: LeaseWorld, lease_jobs: int) -> None:
        store = Stopping(world.redis)
        credit, other = world.process(lease_jobs, store), world.process(0)
        await hold(credit, "a", 20)
        store.is_closed = True
        promising = asyncio.create_task(promise(credit, line(0), {"a": 300}))
        await store.is_there.wait()
        await credit.release(PAYER, "a")
        await tidied(world, credit)
        await hold(other, "b", 1000 - await world.held())
        store.gate.set()
        with pytest.raises(Unavailable):
            await promising
        await other.release(PAYER, "b")
        assert (await promised(world), await tidied(world, credit)) == (0, 0)

    @LEASES
    async def test_while_its_promise_waits_for_another_hold(self, world: LeaseWorld, lease_jobs: int) -> None:
        store = Stopping(world.redis)
        credit = world.process(lease_jobs, store)
        await hold(credit, "a", 20)
        store.is_closed = True
        covering = asyncio.create_task(credit.cover("a", 400))
        await store.is_there.wait()
        promising = asyncio.create_task(promise(credit, line(0), {"a": 600}))
        await asyncio.sleep(0.01)
        await credit.release(PAYER, "a")
        store.gate.set()
        found = await asyncio.gather(covering, promising, return_exceptions=True)
        assert [type(each) for each in found] == [Unavailable, Unavailable]
        assert (await promised(world), await tidied(world, credit)) == (0, 0)

    async def test_while_others_are_waited_for(self, world: LeaseWorld) -> None:
        credit, other, third = world.process(), world.process(0), world.process()
        await hold(credit, "a", 20)
        await hold(third, "c", 10)
        await hold(other, "b", 700)
        leaving = asyncio.create_task(credit.cover("a", 500))
        await asyncio.sleep(0.25)
        leaving.cancel()
        await asyncio.wait([leaving])
        await credit.release(PAYER, "a")
        await tidied(world, credit)
        await other.release(PAYER, "b")
        await asyncio.sleep(2.2)
        await third.release(PAYER, "c")
        assert await tidied(world, credit, third) == 0


class TestPromiseOnRecord:
    """What seems to be missing may be on record: a promise whose answer was lost."""

    @LEASES
    async def test_a_higher_one_needs_only_what_it_adds(self, world: LeaseWorld, lease_jobs: int) -> None:
        world.balance, store = 100, Breaking(world.redis)
        credit = world.process(lease_jobs, store)
        await hold(credit, "a", 60)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, line(0), {"a": 60})
        store.is_late = False
        assert await promise(credit, line(0), {"a": 65}) == 65
        await credit.release(PAYER, "a")
        assert (await promised(world), await tidied(world, credit)) == (65, 0)

    async def test_the_same_needs_nothing(self, world: LeaseWorld) -> None:
        world.balance, store = 130, Breaking(world.redis)
        credit = world.process(0, store)
        await hold(credit, "a", 60)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, line(0), {"a": 60})
        store.is_late = False
        assert await promise(credit, line(1), {"a": 30}) == 30
        assert await promise(credit, line(0), {"a": 60}) == 60


class TestHoldAlone:
    """A job that leaves its lease takes with it what that has for it, and not more."""

    async def test_a_late_smaller_hold_takes_nothing_away(self, world: LeaseWorld) -> None:
        world.balance, store = 100, Breaking(world.redis)
        credit = world.process(0, store)
        await hold(credit, "a", 20)
        store.is_deaf = True
        with pytest.raises(StoreUnreachable):
            await credit.cover("a", 30)
        store.is_deaf = False
        await credit.cover("a", 90)
        await store.hear()
        with pytest.raises(InsufficientFunds):
            await sell(world, 11)
        assert await promise(credit, line(0), {"a": 90}) == 90

    async def test_of_a_lease_in_doubt_it_needs_only_what_is_missing(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit, other = world.process(8, store), world.process(0)
        for job in "abcd":
            await hold(credit, job, 100)
        await promise(credit, line(0), {"a": 10})
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await credit.cover("a", 200)
        store.is_late = False
        left = 1000 - await promised(world) - await world.held()
        await hold(other, "z", left - 15)
        await credit.cover("a", 100)
        for job in "bcd":
            assert await promise(credit, line(ord(job)), {job: 100}) == 100

    async def test_nothing_is_held_twice_once_it_is_known(self, world: LeaseWorld) -> None:
        store = Stopping(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a", 40)
        await hold(credit, "b", 20)
        # Say a block of which nobody heard.
        credit.leases.lose(next(iter(credit.leases)))
        store.is_closed = True
        covering = asyncio.create_task(credit.cover("a", 100))
        await store.is_there.wait()
        tidying = asyncio.create_task(credit.tidy())
        await asyncio.sleep(0.01)
        store.gate.set()
        await asyncio.wait([covering, tidying])
        assert await tidied(world, credit) == 120

    async def test_an_own_hold_that_was_not_heard_counts_once(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        for job in "ac":
            await hold(credit, job, 20)
        lease = next(iter(credit.leases))
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await credit.cover("a", 300)
        store.is_late = False
        await credit.tidy()
        # What says that the lease is in doubt is forgotten after minutes.
        await world.redis.delete(ended_key(PAYER, lease.name))
        await credit.cover("a", 950)
        assert await promised(world) + await world.held() <= 1000
        with pytest.raises(InsufficientFunds):
            await sell(world, 31)

    async def test_a_promise_on_its_way_leaves_others_what_they_have(self, world: LeaseWorld) -> None:
        store = Stopping(world.redis)
        credit = world.process(8, store)
        for job in "ab":
            await hold(credit, job, 100)
        store.is_closed = True
        covering = asyncio.create_task(credit.cover("a", 150))
        await store.is_there.wait()
        promising = asyncio.create_task(promise(credit, line(0), {"a": 40}))
        await asyncio.sleep(0.01)
        store.gate.set()
        await asyncio.wait([covering, promising])
        await sell(world, 1000 - await promised(world) - await world.held())
        assert await promise(credit, line(1), {"b": 100}) == 100
        assert await promise(credit, line(0), {"a": 150}) == 150


class TestPatience:
    async def test_who_goes_on_without_waits_for_nobody(self, world: LeaseWorld) -> None:
        credit, other = world.process(0), world.process()
        await hold(other, "b", 10)
        await hold(credit, "a", 20)
        before = asyncio.get_running_loop().time()
        with pytest.raises(InsufficientFunds):
            await credit.cover("a", 990, Patience.NONE)
        assert asyncio.get_running_loop().time() - before < 1

    async def test_a_promise_does_not_wait_for_who_does(self, world: LeaseWorld) -> None:
        credit, other = world.process(0), world.process()
        await hold(other, "b", 10)
        await hold(credit, "a", 20)
        covering = asyncio.create_task(credit.cover("a", 990))
        await asyncio.sleep(0.3)
        assert await promise(credit, line(0), {"a": 21}) == 21
        assert not covering.done()
        await asyncio.wait([covering])

    async def test_what_a_lease_of_its_own_has_too_much_is_no_reason_to_refuse(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a", 20)
        # It is in doubt since nobody heard of a block: some of it is nobody's.
        credit.leases.lose(next(iter(credit.leases)))
        assert await world.held() > 100
        assert await promise(credit, line(0), {"a": 900}) == 900
