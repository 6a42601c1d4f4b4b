"""Credit leased in blocks: jobs without round trips while much is left, and still the last unit sold."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis
from tests.lease_world import NODE, PAYER, SIGNER, LeaseWorld, Slow, hold, promise

from retally.errors import CapExceeded, InsufficientFunds
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_answer import Want
from retally_router.credit_keys import credit_key
from retally_router.credit_scripts import WANTED_SECONDS
from retally_router.lease_keeper import LeaseKeeper
from retally_router.leases import EXPIRED_SECONDS, IDLE_SECONDS, MOST_AGE_SECONDS, PLAIN_SECONDS

OTHER = SigningKey(keccak(b"another session")).address


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
        await promise(credit, ChannelId(PAYER, SIGNER, NODE, 0), {"a": 7})
        assert await world.held() == 73
        await credit.release(PAYER, "a")
        await credit.close()
        assert await world.held() == 0
        assert await credit.holds(PAYER, SIGNER) == []

    async def test_a_promise_of_more_than_the_job_holds_takes_what_is_free(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await promise(credit, ChannelId(PAYER, SIGNER, NODE, 0), {"a": 50})
        assert await world.held() == 30


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
        world.now += PLAIN_SECONDS
        await asyncio.sleep(WANTED_SECONDS + 0.2)
        await hold(there, "d")
        assert len(await world.open_leases()) == 2

    async def test_a_dead_one_is_waited_for_once(self, world: LeaseWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        world.balance = 160
        dead, credit = world.process(), world.process()
        await hold(dead, "a")
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr("retally_router.asking.asyncio.sleep", sleep)
        for _ in range(2):
            with pytest.raises(InsufficientFunds, match="141 needed, 140 available"):
                await hold(credit, "b", 141)
        assert sum(waits) == pytest.approx(2.0)

    async def test_it_is_asked_for_once_more_after_the_last_wait(
        self, world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.balance = 160
        here, there = world.process(), world.process()
        await hold(here, "a")
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            if sum(waits) > 1.99:
                await here.tidy()

        monkeypatch.setattr("retally_router.asking.asyncio.sleep", sleep)
        await hold(there, "b", 150)
        assert sum(waits) == pytest.approx(2.0)

    async def test_clocks_of_hosts_do_not_matter(self, world: LeaseWorld) -> None:
        world.balance = 160
        late = LeaseWorld(world.redis, balance=160, now=world.now - 3000)
        here, there = world.process(), late.process(0)
        keeper = LeaseKeeper(here)
        await keeper.start()
        try:
            await hold(here, "a")
            assert await world.held() == 20
            await hold(there, "b", 150)
        finally:
            await keeper.close()

    async def test_at_a_signers_cap_only_its_own_leases_are_called_in(self, world: LeaseWorld) -> None:
        here, there = world.process(), world.process(0)
        await hold(here, "a", signer=OTHER)
        await hold(here, "b")
        other, _ = await world.open_leases()
        world.cap = 90
        keeper = LeaseKeeper(here)
        await keeper.start()
        try:
            await hold(there, "c", 70)
            with pytest.raises(CapExceeded, match="30 needed, 10 left"):
                await hold(there, "d", 30)
        finally:
            assert await world.open_leases() == [other]
            await keeper.close()

    async def test_of_thousands_those_that_are_waited_for_go_first(self, world: LeaseWorld) -> None:
        world.balance = 160
        here, there = world.process(store=Slow(world.redis, 0.002)), world.process(0)
        payers = [SigningKey(keccak(b"%d" % number)).address for number in range(1500)]
        for start in range(0, len(payers), 100):
            await asyncio.gather(*(hold(here, "a", payer=payer) for payer in payers[start : start + 100]))
        await hold(here, "a")
        for lease in here.leases:
            await here.release(lease.payer, "a")
        world.now += 2 * IDLE_SECONDS
        refused = asyncio.create_task(hold(there, "b", 160))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        tidied = asyncio.create_task(here.tidy())
        await refused
        assert not tidied.done()
        await tidied
        assert time.monotonic() - began < 2.5
        assert [lease for lease in here.leases if lease.is_open] == []

    async def test_a_job_that_never_ends_keeps_no_lease(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        world.now += EXPIRED_SECONDS + 1
        await credit.tidy()
        assert (list(credit.leases), await credit.holds(PAYER, SIGNER)) == ([], [])
        await credit.release(PAYER, "a")

    async def test_an_old_lease_gives_no_more_to_a_job_that_waits_for_a_block(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        (lease,) = credit.leases
        assert not credit.leases.take(lease, Want(PAYER, SIGNER, "b", 10, 0), world.now + MOST_AGE_SECONDS + 1)
        assert lease.is_retired


class TestEnd:
    @pytest.mark.parametrize("processes", [1, 3])
    async def test_the_last_unit_is_sold_and_no_more(self, world: LeaseWorld, processes: int) -> None:
        world.balance = 1000
        credits = [Credit(world.redis, world.standing, lease_jobs=8) for _ in range(processes)]
        keepers = [LeaseKeeper(credit) for credit in credits]
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
                channel = ChannelId(PAYER, SIGNER, NODE, number % processes)
                await promise(credit, channel, {str(job): 10})
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
