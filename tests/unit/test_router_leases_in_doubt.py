"""Credit leased in blocks, in doubt: a store that breaks, a client that leaves, a lane that lapses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.lease_world import NODE, PAYER, SIGNER, Breaking, Counting, LeaseWorld, hold, leave, promise, tidied

from retally.errors import InsufficientFunds
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import wanted_key
from retally_router.credit_scripts import HOLD, RELEASE
from retally_router.lanes import Lanes
from retally_router.leases import HOLD_SECONDS, IDLE_SECONDS
from retally_router.store_errors import StoreUnreachable


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis)


class TestDoubt:
    async def test_while_the_store_is_gone_jobs_take_of_the_lease_and_then_hear_why(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        await hold(credit, "a")
        store.is_gone = True
        await hold(credit, "b")
        with pytest.raises(StoreUnreachable):
            await hold(credit, "c")
        store.is_gone = False
        await hold(credit, "d")
        for job in "abd":
            await credit.release(PAYER, job)
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_a_block_whose_answer_was_lost_goes_back(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await hold(credit, "a")
        assert await world.held() == 20
        store.is_late = False
        await credit.tidy()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_a_client_that_left_holds_nothing(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        await leave(credit, store, "a")
        assert await world.held() == 20
        await credit.tidy()
        await credit.close()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_a_hold_whose_client_left_ends_when_the_store_is_back(self, world: LeaseWorld) -> None:
        store, world.balance = Breaking(world.redis), 15
        credit = world.process(2, store)
        await leave(credit, store, "a")
        assert await credit.holds(PAYER, SIGNER) == [("a", 0)]
        store.is_gone = True
        with pytest.raises(StoreUnreachable):
            await credit.tidy()
        store.is_gone = False
        await credit.tidy()
        assert await credit.holds(PAYER, SIGNER) == []

    async def test_a_promise_that_may_not_have_been_heard_ends_its_lease(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        await hold(credit, "a")
        store.is_gone = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, ChannelId(PAYER, SIGNER, NODE, 0), {"a": 10})
        store.is_gone = False
        await hold(credit, "b")
        assert len({name for name, _ in await credit.holds(PAYER, SIGNER)}) == 2
        for job in "ab":
            await credit.release(PAYER, job)
        await credit.tidy()
        await credit.close()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_money_that_came_and_went_covers_nothing(self, world: LeaseWorld) -> None:
        credit, other = world.process(), world.process(lease_jobs=0)
        world.balance = 1000
        await hold(credit, "a")
        world.balance = 2000
        await hold(credit, "b")
        await hold(other, "c", 1900)
        world.balance = 1000
        with pytest.raises(InsufficientFunds):
            await hold(credit, "d")

    async def test_a_lease_whose_hold_expired_is_waited_for_no_more(self, world: LeaseWorld) -> None:
        dead, credit, world.balance = world.process(), world.process(), 160
        await hold(dead, "a")
        world.now += HOLD_SECONDS + 1
        with pytest.raises(InsufficientFunds, match="161 needed, 160 available"):
            await hold(credit, "b", 161)
        assert await world.open_leases() == []

    async def test_a_lane_that_another_may_have_had_ends_the_leases_on_it(self, world: LeaseWorld) -> None:
        credit = world.process()
        lanes = Lanes(world.redis, count=4, holder="here:1:1", lease_seconds=0.4, lapsed=[credit.leases.retire_all])
        await lanes.start(0)
        try:
            await hold(credit, "a")
            (old,) = await world.open_leases()
            await asyncio.sleep(0.5)
            await hold(credit, "b")
            assert await world.open_leases() == [old]
            await world.redis.delete("retally:lane:0")
            await asyncio.sleep(0.3)
            await hold(credit, "c")
            assert len(await world.open_leases()) == 2
        finally:
            await lanes.close()


class TestHolds:
    """A hold ends, whatever was heard of it and when."""

    @pytest.mark.parametrize("lease_jobs", [0, 2])
    async def test_a_client_that_left_while_its_job_asked_for_itself_holds_nothing(
        self, world: LeaseWorld, lease_jobs: int
    ) -> None:
        store, world.balance = Breaking(world.redis), 15
        credit = world.process(lease_jobs, store)
        if lease_jobs:
            # No block: the next jobs ask for themselves alone.
            await hold(credit, "before", 2)
        await leave(credit, store, "a")
        await credit.tidy()
        await credit.release(PAYER, "before")
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    @pytest.mark.parametrize("lease_jobs", [0, 2])
    async def test_a_hold_whose_answer_was_lost_ends(self, world: LeaseWorld, lease_jobs: int) -> None:
        store, world.balance = Breaking(world.redis), 15
        credit = world.process(lease_jobs, store)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await hold(credit, "a")
        assert await world.held() == 10
        store.is_late = False
        await credit.tidy()
        await credit.tidy()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    @pytest.mark.parametrize(("lease_jobs", "balance"), [(0, 15), (2, 15), (2, 10_000)])
    async def test_one_that_is_heard_after_its_end_holds_nothing(
        self, world: LeaseWorld, lease_jobs: int, balance: int
    ) -> None:
        store, world.balance = Breaking(world.redis), balance
        credit = world.process(lease_jobs, store)
        store.is_deaf = True
        with pytest.raises(StoreUnreachable):
            await hold(credit, "a")
        store.is_deaf = False
        await credit.tidy()
        await credit.tidy()
        assert list(credit.leases) == []
        await store.hear()
        assert (await world.held(), await credit.holds(PAYER, SIGNER), await world.open_leases()) == (0, [], [])


class TestDoubtThatComesBack:
    """A job whose client left gets its hold while it is being released already."""

    async def test_it_is_settled_once_more(self, world: LeaseWorld) -> None:
        store = Apart(world.redis)
        credit = world.process(8, store)
        await leave_unheard(credit, "a")
        tidying = asyncio.create_task(credit.tidy())
        await asyncio.sleep(0.02)
        store.let[HOLD].set()
        await asyncio.sleep(0.02)
        store.let[RELEASE].set()
        await tidying
        assert await tidied(world, credit) == 0
        assert list(credit.leases) == []

    async def test_one_that_is_being_settled_is_still_no_reason_to_refuse(self, world: LeaseWorld) -> None:
        store, world.balance = Apart(world.redis), 15
        credit = world.process(0, store)
        await leave_unheard(credit, "a")
        store.let[HOLD].set()
        # What others hear of the store comes on connections of their own.
        store.late = "a"
        tidying = asyncio.create_task(credit.tidy())
        await asyncio.sleep(0.02)
        store.let[RELEASE].set()
        await hold(credit, "b")
        store.gate.set()
        await tidying
        assert await credit.holds(PAYER, SIGNER) == [("b", 0)]


class Apart:
    """A store that keeps back its answers to holds and to releases, each until it is let."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.let = {HOLD: asyncio.Event(), RELEASE: asyncio.Event()}
        #: The next release of that job is heard only when the gate opens.
        self.late, self.gate = "", asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, *args: Any) -> Any:
        if script == RELEASE and self.late in args:
            self.late = ""
            await self.gate.wait()
        found = await self._redis.eval(script, *args)
        if script in self.let:
            await self.let[script].wait()
        return found


async def leave_unheard(credit: Credit, job: str) -> None:
    """A client that leaves before its hold is answered."""
    leaving = asyncio.create_task(hold(credit, job))
    await asyncio.sleep(0.02)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()


class TestNearTheEnd:
    async def test_who_left_and_asks_again_at_once_is_not_refused(self, world: LeaseWorld) -> None:
        world.balance, store = 100, Breaking(world.redis)
        credit = world.process(32, store)
        store.gate.clear()
        leaving = asyncio.create_task(hold(credit, "a", 60))
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.wait([leaving])
        store.gate.set()
        await asyncio.sleep(0.05)
        await hold(credit, "b", 60)
        assert await world.held() == 60

    async def test_a_rush_that_gets_no_block_asks_at_once(self, world: LeaseWorld) -> None:
        store = Counting(world.redis)
        await world.redis.set(wanted_key(PAYER), "1")
        credit = world.process(32, store)
        await asyncio.gather(*(hold(credit, str(job)) for job in range(20)))
        assert store.most >= 10
