"""Jobs of one channel, in any order, while others buy all that is free: each one's fee comes out of its own hold."""

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
from tests.router_world import DATABASE, database_url

from retally.errors import PaymentRequired, Unavailable
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmark_scripts import PROMISE
from retally_router.open_segments import OpenSegment, SegmentKey
from retally_router.settle_jobs import SettleJobs
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

DEPOSIT = 1000

jobs = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("begin"), jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("begin"), jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("ask"), jobs, st.sampled_from([0, 0, 30, 64])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("read"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("read"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("refuse"), jobs),
    st.tuples(st.just("buy")),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("tidy")),
)


class Store:
    """Redis, whose next promise breaks off before it is heard, or before it answers."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.fault: bool | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, script: str, *args: Any) -> Any:
        fault = self.fault if script is PROMISE else None
        if fault is None:
            return await self._redis.eval(script, *args)
        self.fault = None
        if fault:
            await self._redis.eval(script, *args)
        raise StoreUnreachable("broke off")


@dataclass
class Job:
    """One, as its node sees it."""

    name: str
    prompt: int
    most: int
    tokens: int = 0
    is_closed: bool = False

    @property
    def key(self) -> SegmentKey:
        return bytes.fromhex(self.name), 0, 0

    @property
    def fee(self) -> int:
        return self.prompt + self.tokens


@dataclass
class Channel:
    """A node's line of money, and what a router makes of it."""

    world: LeaseWorld
    store: Store
    credit: Credit
    account: ChannelAccount
    sender: VoucherSender
    settle: SettleJobs
    books: Books
    jobs: dict[int, Job] = field(default_factory=dict)
    #: What the node signed and the router has not read.
    receipts: list[tuple[Job, int]] = field(default_factory=list)
    total: int = 0
    count: int = 0

    async def begin(self, number: int, prompt: int, most: int) -> None:
        if number in self.jobs:
            return
        self.count += 1
        job = Job(f"{self.count:064x}", prompt, most)
        try:
            await hold(self.credit, job.name, prompt + most)
        except PaymentRequired:
            return
        segment = OpenSegment(prompt * 1_000_000, 1_000_000, most, job.name)
        total = self.account.admit({job.key: segment})
        # Its record may come before its promise or after.
        works = self.account.voucher(total), self.books.begin(job.name)
        found = await asyncio.gather(*(works if prompt % 2 else works[::-1]), return_exceptions=True)
        for error in found:
            if isinstance(error, (StoreUnreachable, Unavailable)):
                # A store that keeps what it heard refuses nothing that is held, but where another job just ended.
                await self.leave(job)
                return
            if isinstance(error, BaseException):
                raise error
        self.jobs[number] = job

    async def leave(self, job: Job) -> None:
        self.account.drop([job.key])
        await self.books.forget(job.name)
        await self.settle.release(PAYER, job.name, self.account)

    async def answer(self, number: int, tokens: int) -> None:
        job = self.jobs.get(number)
        if job is not None and not job.is_closed:
            more = min(tokens, job.most - job.tokens)
            job.tokens += more
            self.account.open.count(job.key, more)

    async def ask(self, number: int, ahead: int = 0) -> None:
        """The node asks for what is due by its count, and says that it is so far ahead."""
        job = self.jobs.get(number)
        if job is not None and not job.is_closed:
            self.account.note_due(self.total + job.fee + ahead)
            self.sender.pay(self.account)

    async def close(self, number: int, short: int = 0) -> None:
        """The node's receipt is over what it made, or over less."""
        job = self.jobs.get(number)
        if job is not None and not job.is_closed:
            job.is_closed, job.tokens = True, max(0, job.tokens - short)
            self.receipts.append((job, self.total))
            self.total += job.fee
            del self.jobs[number]

    async def read(self, number: int, is_recorded: bool) -> None:
        """A receipt comes, perhaps twice because it was not recorded; then its job ends."""
        if not self.receipts:
            return
        job, start = self.receipts.pop(number % len(self.receipts))
        signed = receipt(start, start + job.fee)
        known = self.account.open[job.key]
        self.account.close(job.key, signed)
        if not is_recorded:
            self.account.reopen({job.key: known})
            self.account.close(job.key, signed)
        await self.books.record(self.account, job.name, start, start + job.fee)
        self.sender.pay(self.account)
        await self.sender.once_paid(self.account, partial(self.books.forget, job.name), job.key[0])
        await self.settle.release(PAYER, job.name, self.account)

    async def refuse(self, number: int) -> None:
        """The node turns a job away that it has not begun; what was promised stays."""
        job = self.jobs.get(number)
        if job is not None and not job.tokens:
            del self.jobs[number]
            await self.leave(job)

    async def buy(self) -> None:
        await buy(self.world, but=200)

    async def fail(self, is_heard: bool) -> None:
        self.store.fault = is_heard

    async def tidy(self) -> None:
        await self.credit.tidy()

    async def end(self) -> None:
        """All that is open ends, and everybody buys what is free."""
        self.store.fault = None
        await buy(self.world)
        for number in list(self.jobs):
            await self.answer(number, 100)
            await self.ask(number)
            await self.close(number)
        while self.receipts:
            await self.read(len(self.receipts) - 1, is_recorded=True)
        assert await self.sender.drain(20)
        await self.credit.close()
        account = self.account
        assert (account.owing, account.once_promised, list(account.now_promised), dict(account.open)) == (
            {},
            [],
            [],
            {},
        )
        assert account.tiling.closed == self.total <= account.delivered <= account.promised
        assert account.is_idle
        assert (dict(account.earmarks), account.earmarks.kept) == ({}, 0)
        assert await self.world.held() == 0
        assert await self.books.is_empty()
        total, _, billed = await self.books.line()
        assert billed == self.total <= account.promised <= total


async def play(url: str, lease_jobs: int, taken: list[tuple[Any, ...]]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.flushdb()
        world, store, node = LeaseWorld(redis, balance=DEPOSIT), Store(redis), SlowNode()
        node.gate.set()
        credit, sender = world.process(lease_jobs, cast(Any, store)), VoucherSender(cast(Any, node))
        stack.push_async_callback(sender.close)
        account = account_of(credit)
        channel = Channel(world, store, credit, account, sender, settling(credit, sender), Books(redis, line(0)))
        for name, *args in taken:
            # What breaks off is tried again in the background.
            with contextlib.suppress(StoreUnreachable):
                await getattr(channel, name)(*args)
            assert await promised(world) <= DEPOSIT
            await asyncio.sleep(0)
        await channel.end()
        assert await promised(world) <= DEPOSIT


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lease_jobs=st.sampled_from([0, 3]), taken=st.lists(steps, min_size=5, max_size=30))
@example(
    lease_jobs=0,
    taken=[
        ("begin", 0, 0, 100),
        ("begin", 1, 50, 100),
        ("answer", 0, 100),
        ("ask", 0, 0),
        ("close", 0, 0),
        ("read", 0, True),
    ],
)
def test_each_pays_for_itself(redis_url: str, lease_jobs: int, taken: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(database_url(redis_url, DATABASE), lease_jobs, taken))
