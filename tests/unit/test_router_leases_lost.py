"""Credit leased in blocks over a store that comes back without its last writes, or whose lease another has ended."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from tests.lease_world import NODE, PAYER, SIGNER, Breaking, LeaseWorld, hold, lose, promise, promised

from retally.errors import InsufficientFunds
from retally.protocol.voucher import ChannelId
from retally_router.credit_keys import credit_key
from retally_router.leases import IDLE_SECONDS
from retally_router.store_errors import StoreUnreachable

CHANNEL = ChannelId(PAYER, SIGNER, NODE, 0)


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis)


class TestStoreThatForgot:
    async def test_what_others_hold_now_is_promised_nowhere_else(self, world: LeaseWorld) -> None:
        world.balance = 160
        credit, other = world.process(), world.process(0)
        await hold(credit, "a")
        await lose(world)
        await hold(other, "b", 160)
        # It takes of the block, of which the store knows nothing.
        await hold(credit, "c")
        for job in "ac":
            with pytest.raises(InsufficientFunds):
                await promise(credit, CHANNEL, {job: 10})
        assert await promised(world) == 0
        await promise(other, ChannelId(PAYER, SIGNER, NODE, 1), {"b": 160})
        with pytest.raises(InsufficientFunds):
            await promise(credit, CHANNEL, {"a": 10})
        assert await promised(world) == 160
        for job in "ac":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert (await credit.holds(PAYER, SIGNER), list(credit.leases)) == ([("b", 0)], [])

    async def test_while_enough_is_left_its_jobs_hold_for_themselves(self, world: LeaseWorld) -> None:
        credit = world.process()
        for job in "ab":
            await hold(credit, job)
        await lose(world)
        assert await promise(credit, CHANNEL, {"a": 7}) == 7
        assert await credit.holds(PAYER, SIGNER) == [("a", 0)]
        assert (await world.held(), await promised(world)) == (3, 7)
        assert await promise(credit, CHANNEL, {"b": 7}) == 14
        # New jobs lease anew.
        await hold(credit, "c")
        assert len(await world.open_leases()) == 1
        for job in "abc":
            await credit.release(PAYER, job)
        await credit.tidy()
        await credit.close()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_an_earlier_hold_covers_no_more_than_it_says(self, world: LeaseWorld) -> None:
        world.balance = 800
        credit, other = world.process(2), world.process(0)
        await hold(credit, "a")
        await hold(credit, "b")
        earlier = await world.redis.hgetall(credit_key(PAYER))
        await hold(credit, "c")
        await hold(credit, "d")
        await world.redis.delete(credit_key(PAYER))
        await world.redis.hset(credit_key(PAYER), mapping=dict(earlier))
        await hold(other, "e", 780)
        # The hold that is left covers two of four, whichever come first.
        assert await promise(credit, CHANNEL, {"c": 10}) == 10
        assert await promise(credit, CHANNEL, {"a": 10}) == 20
        for job in "bd":
            with pytest.raises(InsufficientFunds, match="10 needed, 0 available"):
                await promise(credit, CHANNEL, {job: 10})
        assert await promised(world) + await world.held() == 800

    async def test_giving_back_shows_it_too(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await lose(world)
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        (lease,) = credit.leases
        assert (lease.is_retired, lease.free) == (True, 0)

    async def test_the_next_block_shows_it_too(self, world: LeaseWorld) -> None:
        world.balance = 1600
        credit = world.process(2)
        await hold(credit, "a")
        await hold(credit, "b")
        await lose(world)
        await hold(credit, "c")
        await hold(credit, "d")
        assert [lease.is_retired for lease in credit.leases] == [True, False]
        assert len(await credit.holds(PAYER, SIGNER)) == 2

    async def test_what_a_job_holds_for_itself_ends_with_it(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        await hold(credit, "a")
        await hold(credit, "b")
        await lose(world)
        world.balance = 5
        with pytest.raises(InsufficientFunds):
            await promise(credit, CHANNEL, {"a": 10})
        world.balance = 10_000
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, CHANNEL, {"a": 10})
        store.is_late = False
        assert await promise(credit, CHANNEL, {"a": 10}) == 10
        # Of two who look after it at once, one does.
        await asyncio.gather(*(promise(credit, ChannelId(PAYER, SIGNER, NODE, lane), {"b": 5}) for lane in (1, 2)))
        assert (await promised(world), await world.held()) == (20, 0)
        for job in "ab":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])


class TestAdopted:
    async def test_a_lease_that_another_ended_promises_nothing_by_itself(self, world: LeaseWorld) -> None:
        world.balance = 160
        credit, other = world.process(), world.process()
        await hold(credit, "a")
        (name,) = await world.open_leases()
        await other.release(PAYER, name)
        await hold(other, "b", 155)
        with pytest.raises(InsufficientFunds, match="10 needed, 5 available"):
            await promise(credit, CHANNEL, {"a": 10})
        await other.release(PAYER, "b")
        assert await promise(credit, CHANNEL, {"a": 10}) == 10

    async def test_it_gets_no_block_of_it_later(self, world: LeaseWorld) -> None:
        credit, other = world.process(2), world.process()
        await hold(credit, "a")
        await hold(credit, "b")
        (name,) = await world.open_leases()
        await other.release(PAYER, name)
        for job in "ab":
            await credit.release(PAYER, job)
        await hold(credit, "c", 30)
        assert name not in await world.open_leases()
