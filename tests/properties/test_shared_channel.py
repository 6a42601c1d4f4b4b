"""Two routers that write one channel after a lapse, and settle each other's jobs: each is paid out of its own hold."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.books import Books
from tests.holds_world import SlowNode, account_of, receipt, settling
from tests.lease_world import PAYER, LeaseWorld, buy, hold, line, promised
from tests.properties.test_channel_money import DEPOSIT, Job, Store
from tests.router_world import DATABASE, database_url

from retally.errors import InvalidReceipt, PaymentRequired, Unavailable
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.credit_keys import earmarks_key
from retally_router.earmarks import mark_of
from retally_router.open_segments import OpenSegment
from retally_router.settle_jobs import SettleJobs
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

jobs, routers = st.integers(0, 3), st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("begin"), routers, jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("begin"), routers, jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("take_up"), jobs),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("ask"), jobs, st.sampled_from([0, 0, 30, 64])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("read"), st.integers(0, 7)),
    st.tuples(st.just("read"), st.integers(0, 7)),
    st.tuples(st.just("refuse"), jobs),
    st.tuples(st.just("buy")),
    st.tuples(st.just("fail"), routers, st.booleans()),
    st.tuples(st.just("tidy")),
)
BROKEN = (StoreUnreachable, Unavailable, PaymentRequired)


@dataclass
class Router:
    """What one of them makes of the channel."""

    credit: Credit
    account: ChannelAccount
    sender: VoucherSender
    settle: SettleJobs
    store: Store


@dataclass
class Running:
    """A job: who began it, and who took it up besides."""

    job: Job
    its: Router
    both: list[Router]


@dataclass
class Shared:
    """A node's line of money, and the routers that pay for their jobs on it."""

    world: LeaseWorld
    routers: list[Router]
    books: Books
    jobs: dict[int, Running] = field(default_factory=dict)
    #: What each router has still to read.
    receipts: list[tuple[Running, Router, int]] = field(default_factory=list)
    total: int = 0
    count: int = 0

    async def begin(self, router: int, number: int, prompt: int, most: int) -> None:
        if number in self.jobs:
            return
        self.count, its = self.count + 1, self.routers[router]
        job = Job(f"{self.count:064x}", prompt, most)
        try:
            await hold(its.credit, job.name, prompt + most)
        except PaymentRequired:
            return
        total, running = its.account.admit({job.key: segment(job)}), Running(job, its, [its])
        # Its record may come before its promise or after.
        works = its.account.voucher(total), self.books.begin(job.name)
        found = await asyncio.gather(*(works if prompt % 2 else works[::-1]), return_exceptions=True)
        if any(isinstance(error, BROKEN) for error in found):
            await self.leave(running)
            return
        self.jobs[number] = running

    async def take_up(self, number: int) -> None:
        """The other router settles it too, by what is on record."""
        running = self.jobs.get(number)
        if running is None or len(running.both) > 1:
            return
        (other,) = (each for each in self.routers if each is not running.its)
        running.both.append(other)
        place, key = running.job.name, earmarks_key(PAYER)
        mark = await cast(Any, self.world.redis).hget(key, place)
        other.account.reopen({running.job.key: segment(running.job)}, {place: mark_of(mark)} if mark else {})

    async def leave(self, running: Running) -> None:
        """Its node has nothing of it."""
        for its in running.both:
            its.account.drop([running.job.key])
            await self.books.forget(running.job.name, is_others=its is not running.its)
            await self.release(running, its)

    async def release(self, running: Running, its: Router) -> None:
        name = running.job.name
        if its is running.its:
            await its.settle.release(PAYER, name, its.account)
        else:
            release = partial(its.credit.release, PAYER, name, settled=[name])
            await its.sender.once_promised(its.account, release, running.job.key[0])

    async def answer(self, number: int, tokens: int) -> None:
        if number in self.jobs:
            job, its = self.jobs[number].job, self.jobs[number].its
            more = min(tokens, job.most - job.tokens)
            job.tokens += more
            its.account.open.count(job.key, more)

    async def ask(self, number: int, ahead: int = 0) -> None:
        """The node asks whoever has the job for all that is due on the channel, whosever it is."""
        if number in self.jobs:
            its = self.jobs[number].its
            due = self.total + sum(each.job.fee for each in self.jobs.values())
            its.account.note_due(due + ahead)
            its.sender.pay(its.account)

    async def close(self, number: int, short: int = 0) -> None:
        if number in self.jobs:
            running = self.jobs.pop(number)
            running.job.tokens = max(0, running.job.tokens - short)
            self.receipts += [(running, its, self.total) for its in running.both]
            self.total += running.job.fee

    async def read(self, number: int) -> None:
        """Whoever has the job hears of its receipt, puts it on record, and sees what else is there."""
        if not self.receipts:
            return
        running, its, start = self.receipts.pop(number % len(self.receipts))
        job, account = running.job, its.account
        signed = receipt(start, start + job.fee)
        try:
            account.close(job.key, signed)
        except InvalidReceipt:
            await self.books.record(account, job.name, 0, 0)
            others = [segment for each in self.routers if each is not its for segment in each.account.open.values()]
            account.close(job.key, signed, sum(segment.limit for segment in others))
        await self.books.record(account, job.name, start, start + job.fee)
        its.sender.pay(account)
        forget = partial(self.books.forget, job.name, is_others=its is not running.its)
        await its.sender.once_paid(account, forget, job.key[0])
        await self.release(running, its)

    async def refuse(self, number: int) -> None:
        """The node turns a job away that it has not begun; what was promised stays."""
        if number in self.jobs and not self.jobs[number].job.tokens:
            await self.leave(self.jobs.pop(number))

    async def buy(self) -> None:
        await buy(self.world, but=200)

    async def fail(self, router: int, is_heard: bool) -> None:
        self.routers[router].store.fault = is_heard

    async def tidy(self) -> None:
        for its in self.routers:
            await its.credit.tidy()

    async def end(self) -> None:
        """Whatever is free is bought; then all that is open ends."""
        for its in self.routers:
            its.store.fault = None
        await buy(self.world)
        for number in list(self.jobs):
            await self.ask(number)
            await self.close(number)
        while self.receipts:
            await self.read(0)
        for its in self.routers:
            assert await its.sender.drain(20)
            await its.credit.close()
            account = its.account
            left = account.owing, account.once_promised, list(account.now_promised), dict(account.open)
            assert left == ({}, [], [], {})
            assert dict(account.earmarks) == {}
        assert max(its.account.delivered for its in self.routers) >= self.total
        assert await self.world.held() == 0
        assert await self.books.is_empty()
        assert (await self.books.line())[2] == self.total


def segment(job: Job) -> OpenSegment:
    return OpenSegment(job.prompt * 1_000_000, 1_000_000, job.most, job.name)


async def play(url: str, lease_jobs: int, taken: list[tuple[Any, ...]]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.flushdb()
        world, node, both = LeaseWorld(redis, balance=DEPOSIT), SlowNode(), list[Router]()
        node.gate.set()
        for _ in range(2):
            store = Store(redis)
            credit, sender = world.process(lease_jobs, store), VoucherSender(cast(Any, node))
            stack.push_async_callback(sender.close)
            account = account_of(credit)
            both.append(Router(credit, account, sender, settling(credit, sender), store))
        shared = Shared(world, both, Books(redis, line(0)))
        for name, *args in taken:
            with contextlib.suppress(StoreUnreachable):
                await getattr(shared, name)(*args)
            assert await promised(world) <= DEPOSIT
            await asyncio.sleep(0)
        await shared.end()
        assert await promised(world) <= DEPOSIT


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lease_jobs=st.sampled_from([0, 3]), taken=st.lists(steps, min_size=5, max_size=30))
@example(
    lease_jobs=0,
    taken=[
        ("begin", 0, 0, 50, 100),
        ("begin", 1, 1, 50, 100),
        ("answer", 1, 100),
        ("ask", 1, 0),
        ("close", 1, 0),
        ("read", 0),
        ("close", 0, 0),
        ("read", 0),
    ],
)
# A total of which less is one's own than was asked for.
@example(
    lease_jobs=0,
    taken=[("begin", 0, 0, 0, 1), ("begin", 1, 2, 2, 1), ("begin", 0, 1, 6, 1), ("close", 1, 0)],
)
# Another's receipt is heard of before its promise.
@example(
    lease_jobs=0,
    taken=[("begin", 0, 0, 0, 2), *[("tidy",)] * 4, ("begin", 1, 2, 0, 1), ("answer", 0, 2), ("ask", 2, 30)],
)
def test_each_pays_for_its_own(redis_url: str, lease_jobs: int, taken: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(database_url(redis_url, DATABASE), lease_jobs, taken))
