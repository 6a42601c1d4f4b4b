"""A job that nothing covers any more does not hold up what its channel's other jobs owe."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.books import Books
from tests.holds_world import JOB, TakingNode, account_of, bill
from tests.lease_world import LEASES, PAYER, LeaseWorld, buy, hold, line
from tests.until import until

from retally.errors import InsufficientFunds
from retally_router import vouchers
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmarks import Ask, Mark
from retally_router.open_segments import OpenSegment
from retally_router.vouchers import VoucherSender

LOST, OTHER = "0b" * 32, "0c" * 32


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=1000)


@pytest.fixture
def books(world: LeaseWorld) -> Books:
    return Books(world.redis, line(0))


async def begin(credit: Credit, books: Books, *jobs: str) -> None:
    """Each holds 100."""
    for job in jobs:
        await hold(credit, job, 100)
        await books.begin(job)


async def lose_one(world: LeaseWorld, job: str, but: int = 0) -> None:
    """Another process ends a job's hold, and somebody buys all that is free then, but for so much."""
    await world.process(0).release(PAYER, job)
    await buy(world, but=but)


def open_job(account: ChannelAccount, job: str) -> int:
    """It may cost 100; what its voucher has to promise."""
    return account.admit({(bytes.fromhex(job), 0, 0): OpenSegment(0, 1_000_000, 100, job)})


class TestPromise:
    async def test_is_made_for_what_the_others_owe(self, world: LeaseWorld, books: Books) -> None:
        credit = world.process(0)
        await begin(credit, books, "a", "b")
        await lose_one(world, "b")
        found = await credit.promise(line(0), [Ask(job, job, 100) for job in "ab"])
        assert (found.total, found.earmarks) == (100, {"a": Mark(100, 100)})
        assert isinstance(found.uncovered, InsufficientFunds)
        assert await books.line() == (100, 100, 0)
        with pytest.raises(InsufficientFunds):
            await credit.promise(line(0), [Ask(job, job, 100, known=known) for job, known in (("a", 100), ("b", 0))])

    @LEASES
    async def test_is_made_as_far_as_a_job_holds(self, world: LeaseWorld, books: Books, lease_jobs: int) -> None:
        credit = world.process(lease_jobs)
        await begin(credit, books, "a")
        # To a node that it left.
        await credit.promise(line(1), [Ask("a1", "a", 70, is_own=True)])
        await credit.tidy()
        await buy(world)
        found = await credit.promise(line(0), [Ask("a", "a", 60)])
        assert (found.earmarks, type(found.uncovered)) == ({"a": Mark(30, 30)}, InsufficientFunds)
        with pytest.raises(InsufficientFunds):
            await credit.promise(line(0), [Ask("a", "a", 60, known=30)])
        world.balance += 30
        found = await credit.promise(line(0), [Ask("a", "a", 60, known=30)])
        assert (found.earmarks, found.uncovered) == ({"a": Mark(60, 60)}, None)

    async def test_of_one_job_at_two_places_is_made_for_the_first_as_far_as_it_goes(
        self, world: LeaseWorld, books: Books
    ) -> None:
        credit = world.process(0)
        await begin(credit, books, "a")
        await books.begin("a2")
        await buy(world)
        found = await credit.promise(line(0), [Ask("a", "a", 80), Ask("a2", "a", 80)])
        assert found.earmarks == {"a": Mark(80, 80), "a2": Mark(20, 20)}
        assert await world.held() == 0

    async def test_is_not_made_for_what_only_a_total_needs(self, world: LeaseWorld, books: Books) -> None:
        """It is not reached: whoever asked for it is refused, and gets nothing that would stay in the channel."""
        credit = world.process(0)
        await begin(credit, books, "a", "b", "c")
        await lose_one(world, "c")
        asks = [Ask("a", "a", 90, ahead=60), Ask("b", "b", 50, ahead=50), Ask("c", "c", 10)]
        found = await credit.promise(line(0), asks)
        assert (found.total, found.earmarks) == (30, {"a": Mark(30, 30)})
        with pytest.raises(InsufficientFunds):
            await credit.promise(line(0), [Ask("b", "b", 50, ahead=50), Ask("c", "c", 10)])
        assert await books.line() == (30, 30, 0)


class TestChannel:
    """Of three jobs, each over 80, one lost its hold."""

    @pytest.fixture
    def node(self) -> TakingNode:
        return TakingNode()

    async def test_pays_what_the_others_owe_and_the_rest_once_money_comes(
        self, world: LeaseWorld, books: Books, node: TakingNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vouchers, "LAST_DELAY_SECONDS", 0.3)
        credit = world.process(0)
        sender, account = VoucherSender(cast(Any, node)), account_of(credit)
        await begin(credit, books, JOB, LOST, OTHER)
        for job in (JOB, LOST, OTHER):
            open_job(account, job)
        await lose_one(world, LOST)
        for number, job in enumerate((LOST, JOB, OTHER)):
            bill(account, 80, 80 * number, job)
        over: list[str] = []
        for job in (LOST, JOB, OTHER):
            await sender.once_promised(account, acting(over, job), bytes.fromhex(job))
        async with asyncio.timeout(5):
            await node.is_paid.wait()
        # The others' holds may end, and their node has what they cost.
        assert (node.taken, over) == (["160"], [JOB, OTHER])
        assert not await sender.drain(1.0)
        # It asks for all that it held.
        world.balance += 100
        await until(lambda: account.delivered >= 240)
        assert (node.taken[-1], over) == ("240", [JOB, OTHER, LOST])
        await sender.close()

    async def test_refuses_a_new_job_and_promises_nothing_for_it(
        self, world: LeaseWorld, books: Books, node: TakingNode
    ) -> None:
        credit = world.process(0)
        account = account_of(credit)
        await begin(credit, books, JOB, LOST, OTHER)
        for job in (JOB, LOST):
            open_job(account, job)
        await lose_one(world, LOST)
        bill(account, 80, 0, LOST)
        bill(account, 80, 80, JOB)
        with pytest.raises(InsufficientFunds):
            await account.voucher(open_job(account, OTHER) + 10)
        assert account.promised == 80
        assert await books.line() == (80, 80, 0)


def acting(over: list[str], job: str) -> Any:
    """Notes the job."""

    async def act() -> None:
        over.append(job)

    return act
