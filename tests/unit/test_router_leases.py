"""Credit leased in blocks: jobs without round trips while much is left, and still the last unit sold."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from tests.lease_world import NODE, PAYER, SIGNER, LeaseWorld, hold

from retally.errors import InsufficientFunds
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit, credit_key
from retally_router.lease_keeper import LeaseKeeper
from retally_router.leases import IDLE_SECONDS, MOST_AGE_SECONDS


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis)


class TestBlock:
    async def test_jobs_of_one_block_cost_one_round_trip(self, world: LeaseWorld) -> None:
        credit, before = world.process(), await world.scripts()
        for job in "abcdefgh":
            await hold(credit, job)
        assert await world.scripts() == before + 1
        assert await world.held() == 80
        for job in "abcdefgh":
            await credit.release(PAYER, job)
        for job in "abcdefgh":
            await hold(credit, job)
        assert await world.scripts() == before + 1

    async def test_jobs_at_once_share_blocks(self, world: LeaseWorld) -> None:
        credit, before = world.process(), await world.scripts()
        await asyncio.gather(*(hold(credit, str(number)) for number in range(16)))
        assert await world.scripts() == before + 2
        assert await world.held() == 160

    async def test_a_block_is_an_eighth_of_what_is_left_at_most(self, world: LeaseWorld) -> None:
        world.balance = 320
        credit = world.process()
        await hold(credit, "a")
        assert await world.held() == 40
        world.balance, credit = 79 + 40, world.process()
        await hold(credit, "b")
        assert await world.held() == 50

    async def test_what_is_promised_leaves_the_lease(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await credit.promise(ChannelId(PAYER, SIGNER, NODE, 0), 7, {"a": 7})
        assert await world.held() == 73
        await credit.release(PAYER, "a")
        await credit.close()
        assert await world.held() == 0
        assert await credit.holds(PAYER, SIGNER) == []

    async def test_a_promise_takes_no_more_than_the_job_holds(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await credit.promise(ChannelId(PAYER, SIGNER, NODE, 0), 50, {"a": 50})
        assert await world.held() == 70


class TestGivenBack:
    async def test_a_lease_that_nobody_uses_goes_back(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        assert (await world.held(), await world.open_leases()) == (10, [])
        await credit.release(PAYER, "a")
        assert await world.held() == 0
        await credit.tidy()
        await credit.tidy()
        assert list(credit.leases) == []

    async def test_an_old_one_is_replaced_before_its_hold_expires(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        (old,) = await world.open_leases()
        world.now += MOST_AGE_SECONDS + 1
        await hold(credit, "b")
        await credit.tidy()
        await hold(credit, "c")
        (new,) = await world.open_leases()
        assert new != old
        for job in "ab":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert [name for name, _ in await credit.holds(PAYER, SIGNER)] == [new]

    async def test_a_payer_that_took_money_out_gets_nothing_of_an_earlier_block(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        world.balance = 15
        with pytest.raises(InsufficientFunds, match="10 needed, 5 available"):
            await hold(credit, "b")
        assert await world.held() == 10

    async def test_a_refusal_waits_for_what_is_free_elsewhere(self, world: LeaseWorld) -> None:
        world.balance = 160
        here, there = world.process(), world.process(lease_jobs=0)
        keeper = LeaseKeeper(here)
        await keeper.start()
        try:
            await hold(here, "a")
            assert await world.held() == 20
            await hold(there, "b", 150)
            assert await world.held() == 160
            with pytest.raises(InsufficientFunds, match="1 needed, 0 available"):
                await hold(there, "c", 1)
            assert await world.open_leases() == []
            # What ends after it was asked for goes back at once.
            await here.release(PAYER, "a")
            await hold(there, "d", 10)
        finally:
            await keeper.close()

    async def test_nobody_gets_a_block_while_others_are_refused(self, world: LeaseWorld) -> None:
        world.balance = 160
        here, there = world.process(), world.process()
        await hold(here, "a")
        with pytest.raises(InsufficientFunds):
            await hold(there, "b", 151)
        world.balance = 10_000
        await hold(there, "c")
        assert await world.held() == 30 + 10 * (not await world.open_leases())
        world.now += 4
        await hold(there, "d")
        assert len(await world.open_leases()) == 2

    async def test_a_dead_one_is_waited_for_once(self, world: LeaseWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.balance = 160
        dead, credit = world.process(), world.process()
        await hold(dead, "a")
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr("retally_router.credit.asyncio.sleep", sleep)
        for _ in range(2):
            with pytest.raises(InsufficientFunds, match="141 needed, 140 available"):
                await hold(credit, "b", 141)
        assert sum(waits) == pytest.approx(2.0)


class TestEnd:
    @pytest.mark.parametrize("processes", [1, 3])
    async def test_the_last_unit_is_sold_and_no_more(self, world: LeaseWorld, processes: int) -> None:
        world.balance = 1000
        credits = [Credit(world.redis, world.standing, lease_jobs=8) for _ in range(processes)]
        keepers = [LeaseKeeper(credit) for credit in credits]
        totals = [0] * processes
        sold: list[str] = []
        jobs = iter(range(125))

        async def client(number: int) -> None:
            credit = credits[number % processes]
            for job in jobs:
                try:
                    await hold(credit, str(job))
                except InsufficientFunds:
                    continue
                await asyncio.sleep(0.001)
                totals[number % processes] += 10
                channel = ChannelId(PAYER, SIGNER, NODE, number % processes)
                await credit.promise(channel, totals[number % processes], {str(job): 10})
                await credit.release(PAYER, str(job))
                sold.append(str(job))

        for keeper in keepers:
            await keeper.start()
        await asyncio.gather(*(client(number) for number in range(6)))
        for keeper in keepers:
            await keeper.close()
        assert len(sold) == 100
        assert int(await world.redis.hget(credit_key(PAYER), f"promised:{SIGNER}") or 0) == 1000
        assert await world.held() == 0

    async def test_close_leaves_to_the_next_what_jobs_still_hold(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await credit.close()
        assert [lane for _, lane in await credit.holds(PAYER, SIGNER)] == [0]
        assert await world.held() == 10
