"""What covers a promise: found held in the store, or held anew, or the promise is refused."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.lease_world import PAYER, SIGNER, Breaking, LeaseWorld, hold, line, lose, open_later, promise, promised, sell

from retally.errors import InsufficientFunds
from retally.protocol.eip712 import SigningKey, keccak
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.leases import HOLD_SECONDS, IDLE_SECONDS
from retally_router.open_segments import OpenSegment
from retally_router.store_errors import StoreUnreachable


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=160)


async def unheard(credit: Credit, store: Breaking, how: str, jobs: dict[str, int]) -> None:
    """A promise whose answer does not come."""
    setattr(store, how, True)
    with pytest.raises(StoreUnreachable):
        await promise(credit, line(0), jobs)
    setattr(store, how, False)


class TestPromiseUnheard:
    """A store that breaks off over a promise: what it takes counts as held until it shows that it was heard."""

    @pytest.mark.parametrize("balance", [15, 160])
    @pytest.mark.parametrize("others", ["", "c"])
    async def test_repeated_it_needs_what_the_first_one_needed(
        self, world: LeaseWorld, balance: int, others: str
    ) -> None:
        world.balance, store = balance, Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        for job in others:
            await hold(credit, job, 1)
        await unheard(credit, store, "is_gone", {"a": 10})
        await lose(world)
        await sell(world, balance)
        with pytest.raises(InsufficientFunds):
            await promise(credit, line(0), {"a": 10})
        assert await promised(world) == balance

    async def test_nor_where_another_ended_the_lease_meanwhile(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit, other = world.process(8, store), world.process()
        await hold(credit, "a")
        await unheard(credit, store, "is_gone", {"a": 10})
        for name, _ in await other.holds(PAYER, SIGNER):
            await other.release(PAYER, name)
        await sell(world, 160)
        with pytest.raises(InsufficientFunds):
            await promise(credit, line(0), {"a": 10})

    @pytest.mark.parametrize("balance", [20, 160])
    async def test_one_that_was_heard_takes_its_share_once(self, world: LeaseWorld, balance: int) -> None:
        world.balance, store = balance, Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        await hold(credit, "b")
        await unheard(credit, store, "is_late", {"a": 4})
        assert await promise(credit, line(0), {"a": 4}) == 4
        assert await promise(credit, line(0), {"a": 10, "b": 10}) == 20
        for job in "ab":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert (await promised(world), await world.held()) == (20, 0)

    @pytest.mark.parametrize("balance", [20, 160])
    async def test_a_higher_one_takes_no_more_than_it_adds(self, world: LeaseWorld, balance: int) -> None:
        world.balance, store = balance, Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        await hold(credit, "b")
        await unheard(credit, store, "is_late", {"a": 10})
        assert await promise(credit, line(0), {"a": 10, "b": 4}) == 14
        # Whatever is free goes back; the rest of the second job stays.
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        assert (await promised(world), await world.held()) == (14, 6)

    async def test_one_that_is_heard_late_is_promised_once(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        await unheard(credit, store, "is_deaf", {"a": 10})
        assert await promise(credit, line(0), {"a": 10}) == 10
        await store.hear()
        await credit.release(PAYER, "a")
        await credit.tidy()
        assert (await promised(world), await world.held()) == (10, 0)

    async def test_several_that_were_not_heard_take_once(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        for job in "ab":
            await hold(credit, job)
        await unheard(credit, store, "is_late", {"a": 4})
        for _ in range(2):
            await unheard(credit, store, "is_late", {"a": 4, "b": 6})
        assert await promise(credit, line(0), {"a": 4, "b": 6}) == 10
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        assert (await promised(world), await world.held()) == (10, 10)

    async def test_its_channel_counts_for_whom_it_was(self, world: LeaseWorld) -> None:
        world.balance, store = 20, Breaking(world.redis)
        credit = world.process(8, store)
        account = ChannelAccount(line(0), SigningKey(keccak(b"session")), DOMAIN, "http://node", credit.promise)
        for job in ("0a", "0b"):
            await hold(credit, job)
        account.admit({(b"\x0a", 0, 0): OpenSegment(10_000_000, 0, 10, "0a:0")})
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await account.voucher(10)
        store.is_late = False
        assert (await account.voucher(4))[0].cumulative == 10
        account.admit({(b"\x0b", 0, 0): OpenSegment(10_000_000, 0, 10, "0b:0")})
        assert (await account.voucher(20))[0].cumulative == 20
        assert (await promised(world), await world.held()) == (20, 0)

    async def test_while_another_job_of_its_lease_runs_nothing_is_held_for_it_in_vain(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        await hold(credit, "long", 1)
        await unheard(credit, store, "is_gone", {"a": 10})
        await promise(credit, line(0), {"a": 10})
        await credit.release(PAYER, "a")
        await credit.tidy()
        await hold(world.process(0), "b", 149)


class TestOneJobAtTwoNodes:
    @pytest.mark.parametrize(("balance", "lease_jobs"), [(320, 2), (25, 0)])
    async def test_it_is_held_anew_for_both(self, world: LeaseWorld, balance: int, lease_jobs: int) -> None:
        world.balance, credit = balance, world.process(lease_jobs)
        await hold(credit, "a", 20)
        await lose(world)
        await sell(world, balance - 10)
        found = await asyncio.gather(
            *(promise(credit, line(number), {"a": 10}) for number in (0, 1)), return_exceptions=True
        )
        assert [type(each) for each in found] == [InsufficientFunds] * 2
        world.balance += 10
        found = await asyncio.gather(*(promise(credit, line(number), {"a": 10}) for number in (0, 1)))
        assert (found, await promised(world), await world.held()) == ([10, 10], balance + 10, 0)

    async def test_what_a_job_had_on_its_way_as_it_ended_is_promised_or_free(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        await hold(credit, "a")
        store.gate.clear()
        on_its_way = [asyncio.create_task(promise(credit, line(0), {"a": 5})) for _ in range(2)]
        await asyncio.sleep(0.05)
        await asyncio.gather(credit.release(PAYER, "a"), open_later(store))
        assert await asyncio.gather(*on_its_way) == [5, 5]
        await credit.close()
        assert (await promised(world), await world.held(), list(credit.leases)) == (5, 0, [])


class TestOwnHold:
    """A job that holds for itself."""

    async def test_one_that_the_store_forgot_is_held_anew_or_refused(self, world: LeaseWorld) -> None:
        world.balance, credit = 25, world.process()
        for job in "ab":
            await hold(credit, job)
        await lose(world)
        await sell(world, 15)
        assert await promise(credit, line(0), {"a": 7}) == 7
        assert (await promised(world), await world.held()) == (22, 3)
        with pytest.raises(InsufficientFunds, match="10 needed, 0 available"):
            await promise(credit, line(1), {"b": 7})
        for job in "ab":
            await credit.release(PAYER, job)
        assert (await promised(world), await credit.holds(PAYER, SIGNER)) == (22, [])

    async def test_one_that_another_process_ended_is_held_anew_or_refused(self, world: LeaseWorld) -> None:
        world.balance, credit, other = 10, world.process(), world.process()
        await hold(credit, "a")
        for job, _ in await other.holds(PAYER, SIGNER):
            await other.release(PAYER, job)
        await sell(world, 10)
        with pytest.raises(InsufficientFunds):
            await promise(credit, line(0), {"a": 10})

    async def test_one_whose_lease_was_lost_is_asked_about_like_any_other(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await lose(world)
        assert await promise(credit, line(0), {"a": 3}) == 3
        await lose(world)
        await sell(world, 155)
        with pytest.raises(InsufficientFunds, match="7 needed, 5 available"):
            await promise(credit, line(0), {"a": 6}, known=3)

    async def test_one_that_took_an_hour_is_promised_only_while_something_covers_it(self, world: LeaseWorld) -> None:
        world.balance, credit = 10, world.process()
        await hold(credit, "a")
        world.now += HOLD_SECONDS + 1
        await sell(world, 10)
        with pytest.raises(InsufficientFunds):
            await promise(credit, line(0), {"a": 10})

    async def test_a_new_hold_that_was_not_heard_ends_with_its_job(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(8, store)
        for job in "ab":
            await hold(credit, job)
        await lose(world)
        store.is_deaf = True
        with pytest.raises(StoreUnreachable):
            await promise(credit, line(0), {"a": 5})
        store.is_deaf = False
        assert await promise(credit, line(0), {"a": 5}) == 5
        for job in "ab":
            await credit.release(PAYER, job)
        await store.hear()
        await credit.tidy()
        await credit.close()
        assert (await promised(world), await world.held(), await credit.holds(PAYER, SIGNER)) == (5, 0, [])
