"""Two routers that write one channel after a lapse: the node is paid whatever it bills, and nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.holds_world import KEY, SlowNode, settling
from tests.lease_world import PAYER, LeaseWorld, buy, hold, line
from tests.properties.test_channel_money import DEPOSIT, Job
from tests.router_world import DATABASE, database_url

from retally.errors import InvalidReceipt, PaymentRequired, Unavailable
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.credit_keys import channel_key_of
from retally_router.open_segments import OpenSegment
from retally_router.settle_jobs import SettleJobs
from retally_router.tiling import ADD_RECEIPTS, Tiling
from retally_router.vouchers import VoucherSender

jobs, routers = st.integers(0, 3), st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("begin"), routers, jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("begin"), routers, jobs, st.integers(0, 60), st.integers(1, 100)),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("answer"), jobs, st.integers(1, 100)),
    st.tuples(st.just("ask"), jobs, st.sampled_from([0, 0, 30, 64])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("close"), jobs, st.sampled_from([0, 0, 20, 100])),
    st.tuples(st.just("read"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.integers(0, 5)),
    st.tuples(st.just("buy")),
    st.tuples(st.just("tidy")),
)


@dataclass
class Router:
    """What one of them makes of the channel."""

    credit: Credit
    account: ChannelAccount
    sender: VoucherSender
    settle: SettleJobs


@dataclass
class Shared:
    """A node's line of money, and the routers that pay for their own jobs on it."""

    world: LeaseWorld
    routers: list[Router]
    jobs: dict[int, tuple[Job, Router]] = field(default_factory=dict)
    receipts: list[tuple[Job, Router, int]] = field(default_factory=list)
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
        try:
            total = its.account.admit({job.key: OpenSegment(prompt * 1_000_000, 1_000_000, most)})
            await its.account.voucher(total)
        except (PaymentRequired, Unavailable):
            its.account.open.close(job.key)
            await its.settle.release(PAYER, job.name, its.account)
            return
        self.jobs[number] = job, its

    async def answer(self, number: int, tokens: int) -> None:
        if number in self.jobs:
            job, its = self.jobs[number]
            more = min(tokens, job.most - job.tokens)
            job.tokens += more
            its.account.open.count(job.key, more)

    async def ask(self, number: int, ahead: int = 0) -> None:
        """The node asks whoever has the job for all that is due on the channel, whosever it is."""
        if number in self.jobs:
            its = self.jobs[number][1]
            due = self.total + sum(job.fee for job, _ in self.jobs.values())
            its.account.note_due(due + ahead)
            its.sender.pay(its.account)

    async def close(self, number: int, short: int = 0) -> None:
        if number in self.jobs:
            job, its = self.jobs.pop(number)
            job.tokens = max(0, job.tokens - short)
            self.receipts.append((job, its, self.total))
            self.total += job.fee

    async def read(self, number: int) -> None:
        """Whoever has the job hears of its receipt, puts it on record, and sees what else is there."""
        if not self.receipts:
            return
        job, its, start = self.receipts.pop(number % len(self.receipts))
        account = its.account
        receipt = cast(Any, SimpleNamespace(fee=job.fee, cum_from=start, cum_to=start + job.fee))
        try:
            account.close(job.key, receipt)
        except InvalidReceipt:
            await self.look(account, [])
            others = [segment for each in self.routers if each is not its for segment in each.account.open.values()]
            account.close(job.key, receipt, sum(segment.limit for segment in others))
        await self.look(account, [start, start + job.fee] if job.fee else [])
        its.sender.pay(account)
        await its.settle.release(PAYER, job.name, account)

    async def look(self, account: ChannelAccount, bounds: list[int]) -> None:
        key = channel_key_of(account.channel)
        found = await cast(Any, self.world.redis).eval(ADD_RECEIPTS, 1, key, account.tiling.closed, *bounds)
        account.take_in(Tiling.of_reply(found))

    async def buy(self) -> None:
        await buy(self.world, but=200)

    async def tidy(self) -> None:
        for its in self.routers:
            await its.credit.tidy()

    async def end(self) -> None:
        """Whatever is free is bought; then all that is open ends."""
        await buy(self.world)
        for number in list(self.jobs):
            await self.ask(number)
            await self.close(number)
        while self.receipts:
            await self.read(0)
        for its in self.routers:
            assert await its.sender.drain(20)
            await its.credit.close()
            assert (its.account.owing, its.account.once_promised, dict(its.account.open)) == ({}, [], {})
        assert max(its.account.delivered for its in self.routers) >= self.total
        assert await self.world.held() == 0


async def play(url: str, lease_jobs: int, taken: list[tuple[Any, ...]]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.flushdb()
        world, node, both = LeaseWorld(redis, balance=DEPOSIT), SlowNode(), list[Router]()
        node.gate.set()
        for _ in range(2):
            credit, sender = world.process(lease_jobs), VoucherSender(cast(Any, node))
            stack.push_async_callback(sender.close)
            account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise, credit.promised)
            both.append(Router(credit, account, sender, settling(credit, sender)))
        shared = Shared(world, both)
        for name, *args in taken:
            await getattr(shared, name)(*args)
            await asyncio.sleep(0)
        await shared.end()


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
