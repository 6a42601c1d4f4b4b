"""A job that nothing covers any more does not hold up what its channel's other jobs owe."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.books import Books
from tests.fakes_world import NOW
from tests.holds_world import JOB, TakingNode, account_of, bill
from tests.lease_world import LEASES, PAYER, Breaking, LeaseWorld, buy, hold, line, lose
from tests.until import until

from retally.errors import ChainUnreachable, InsufficientFunds, SignerExpired
from retally.protocol.eip712 import Address
from retally_router import vouchers
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmarks import Ask, Mark
from retally_router.open_segments import OpenSegment
from retally_router.ports import Standing
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

LOST, OTHER = "0b" * 32, "0c" * 32


async def begin(credit: Credit, books: Books, *jobs: str) -> None:
    """Each holds 100."""
    for job in jobs:
        await hold(credit, job, 100)
        await books.begin(job)


@dataclass
class FarChain(LeaseWorld):
    """A chain of which a fresh look takes long, or that is not there, or whose signer has expired."""

    seconds: float = 0.1
    looks: int = 0
    expiry: int = NOW * 2
    is_gone: bool = False

    async def standing(self, payer: Address, signer: Address, fresh: bool) -> Standing:
        if self.is_gone:
            raise ChainUnreachable("gone")
        if fresh:
            self.looks += 1
            await asyncio.sleep(self.seconds)
        return Standing(self.balance, 0, self.cap, self.expiry)


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

    @pytest.mark.parametrize("what", ["signer", "chain"])
    async def test_is_made_also_where_nothing_can_be_held_anew(self, redis: Redis, books: Books, what: str) -> None:
        world = FarChain(redis, balance=1000)
        credit = world.process(0)
        await begin(credit, books, "a", "b")
        await lose_one(world, "b")
        world.is_gone, world.expiry = what == "chain", 0
        found = await credit.promise(line(0), [Ask(job, job, 100) for job in "ab"])
        assert found.earmarks == {"a": Mark(100, 100)}
        assert type(found.uncovered) is (ChainUnreachable if what == "chain" else SignerExpired)

    async def test_reads_the_chain_for_one_of_those_that_lost_their_lease(self, redis: Redis, books: Books) -> None:
        world, jobs = FarChain(redis, balance=5000), [f"{number:064x}" for number in range(20)]
        credit = world.process(20)
        await begin(credit, books, *jobs)
        await lose(world)
        await buy(world)
        world.looks = 0
        with pytest.raises(InsufficientFunds):
            await credit.promise(line(0), [Ask(job, job, 80) for job in jobs])
        assert world.looks <= 2

    async def test_counts_what_another_channel_took_meanwhile(self, redis: Redis, books: Books) -> None:
        world = FarChain(redis, balance=1000)
        credit = world.process(0)
        await begin(credit, books, "a")
        await books.begin("a1")
        await buy(world)
        first = asyncio.create_task(credit.promise(line(0), [Ask("a", "a", 120)]))
        await asyncio.sleep(0.05)
        await credit.promise(line(1), [Ask("a1", "a", 40)])
        assert (await first).earmarks == {"a": Mark(60, 60)}

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

    @LEASES
    async def test_hears_what_is_on_record_already(
        self, world: LeaseWorld, books: Books, node: TakingNode, lease_jobs: int
    ) -> None:
        """A promise whose answer was lost."""
        store = Breaking(world.redis)
        credit = world.process(lease_jobs, store)
        sender, account = VoucherSender(cast(Any, node)), account_of(credit)
        await begin(credit, books, JOB, LOST)
        for job in (JOB, LOST):
            open_job(account, job)
        bill(account, 80, 0, JOB)
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await account.put_on_record(80)
        store.is_late = False
        bill(account, 80, 80, LOST)
        await (lose(world) if lease_jobs else world.process(0).release(PAYER, LOST))
        await buy(world)
        over: list[str] = []
        for job in (JOB, LOST):
            await sender.once_promised(account, acting(over, job), bytes.fromhex(job))
        await until(lambda: account.delivered == 80)
        assert (node.taken, over) == (["80"], [JOB])
        await sender.close()

    async def test_pays_before_it_waits_for_money_however_slow_the_chain(
        self, redis: Redis, books: Books, node: TakingNode
    ) -> None:
        world = FarChain(redis, balance=1000, seconds=0.2)
        credit = world.process(0)
        sender, account = VoucherSender(cast(Any, node)), account_of(credit)
        await begin(credit, books, JOB, LOST)
        for job in (JOB, LOST):
            open_job(account, job)
        await lose_one(world, LOST)
        bill(account, 80, 0, JOB)
        bill(account, 80, 80, LOST)
        sender.pay(account)
        await until(lambda: node.taken == ["80"], seconds=vouchers.LAST_DELAY_SECONDS / 3)
        await sender.close()

    async def test_promises_nothing_for_who_ended_meanwhile(self, redis: Redis, books: Books) -> None:
        """What were for it would be spare for nobody."""
        world = FarChain(redis, balance=1000)
        credit = world.process(0)
        account = account_of(credit)
        await begin(credit, books, JOB, OTHER)
        await credit.promise(line(1), [Ask("elsewhere", OTHER, 60, is_own=True)])
        for job in (JOB, OTHER):
            open_job(account, job)
        account.open.count((bytes.fromhex(JOB), 0, 0), 30)
        account.open.count((bytes.fromhex(OTHER), 0, 0), 90)
        await buy(world)
        paying = asyncio.create_task(account.voucher(190))
        await asyncio.sleep(0.02)
        assert not paying.done()
        world.balance += 90
        # It costs nothing.
        account.drop([(bytes.fromhex(JOB), 0, 0)])
        await books.forget(JOB)
        await paying
        known = account.earmarks[OTHER].known
        assert await books.line() == (known, known, 0)
        assert known > 90

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
