"""Nodes that are owed: what is promised to them, and done then, where they refuse vouchers or jobs end meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.holds_world import (
    JOB,
    KEY,
    Record,
    Refusing,
    SlowNode,
    StandingClock,
    begun,
    bill,
    owe,
    rest,
    settling,
)
from tests.lease_world import PAYER, Breaking, LeaseWorld, Stopping, hold, line, promised, sell

from retally.errors import InsufficientFunds
from retally_router.channel_state import Act, ChannelAccount
from retally_router.credit_keys import credit_key
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender, act_on


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=100)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_node_that_takes_no_voucher_keeps_nothing_beyond_what_is_promised(
    world: LeaseWorld, lease_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    credit = world.process(lease_jobs)
    sender = VoucherSender(cast(Any, Refusing()))
    account = await begun(credit)
    sender.pay(account)
    bill(account, 80)
    await settling(credit, sender).release(PAYER, JOB, account)
    await asyncio.sleep(0.2)
    assert (account.delivered, await promised(world), await rest(world, credit)) == (0, 80, 0)
    await sell(world, 20)


async def test_what_fails_of_many_that_wait_is_done_once_and_in_full() -> None:
    done: list[str] = []
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()
        done.append("slow")

    async def quick() -> None:
        done.append("quick")

    acts: deque[tuple[int, Act]] = deque([(1, slow), (2, quick)])
    works = [asyncio.create_task(act_on(acts, 2)) for _ in range(2)]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*works)
    assert sorted(done) == ["quick", "slow"]
    assert not acts


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_who_is_owed_while_a_node_refuses_others_is_asked_for_a_voucher(
    world: LeaseWorld, lease_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    credit, node = world.process(lease_jobs), Refusing()
    sender = VoucherSender(cast(Any, node))
    other = ChannelAccount(line(1), KEY, DOMAIN, "http://n", credit.promise)
    owe(other, "0b" * 32, 1)
    account = await begun(credit)

    async def later() -> None:
        bill(account, 80)
        sender.pay(account)
        await settling(credit, sender).release(PAYER, JOB, account)

    node.on_third = later
    sender.pay(other)
    await asyncio.sleep(0.3)
    assert (node.count, await promised(world), await rest(world, credit)) == (6, 81, 0)


async def test_a_hold_ends_with_a_voucher_that_the_next_job_brought(world: LeaseWorld) -> None:
    credit = world.process(0)
    sender = VoucherSender(cast(Any, Refusing()))
    account = await begun(credit)
    bill(account, 80)
    account.once_promised.append((bytes.fromhex(JOB), partial(credit.release, PAYER, JOB)))
    # The node has all that it is owed, by the submission of another job.
    await account.voucher(80)
    account.delivered = 80
    sender.pay(account)
    await asyncio.sleep(0.05)
    assert (await promised(world), await world.held()) == (80, 0)


async def test_what_is_owed_by_the_third_refusal_is_promised(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    credit, node = world.process(0), Refusing()
    sender = VoucherSender(cast(Any, node))
    account = await begun(credit)

    async def more() -> None:
        account.open.count((bytes.fromhex(JOB), 0, 0), 20)
        account.note_due(100)
        bill(account, 100)
        sender.pay(account)
        await settling(credit, sender).release(PAYER, JOB, account)

    node.on_third = more
    sender.pay(account)
    await asyncio.sleep(0.3)
    assert (await promised(world), await world.held()) == (100, 0)


async def test_a_job_that_ends_in_the_middle_sets_no_channel_aside(world: LeaseWorld) -> None:
    world.balance, node, store = 200, SlowNode(), Stopping(world.redis)
    node.gate.set()
    credit = world.process(0, store)
    sender = VoucherSender(cast(Any, node))
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    for job in ("0a", "0b"):
        await hold(credit, job, 20)
        owe(account, job, 20)
    await world.redis.delete(credit_key(PAYER))
    store.is_closed = True
    sender.pay(account)
    await store.is_there.wait()
    # The first one is given up while it is held anew.
    await credit.release(PAYER, "0a")
    account.earmarks.drop(account.owing.pop(b"\x0a")["0a"])
    account.tiling.closed = account.claimed = 20
    store.gate.set()
    assert await sender.drain(2.0)
    assert (account.delivered, await promised(world)) == (20, 20)


async def test_a_settled_job_is_forgotten_once_the_store_answers(world: LeaseWorld) -> None:
    credit, forgotten = world.process(0), list[str]()
    tries = iter([StoreUnreachable("broke off"), None])

    class Log:
        async def forget(self, record: Any) -> None:
            if (error := next(tries)) is not None:
                raise error
            forgotten.append(record.job_id)

    settle = settling(credit, VoucherSender(cast(Any, SlowNode())), Log())
    settle._clock = cast(Any, StandingClock())
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    await settle._forget_once_paid(account, cast(Any, Record("0x0a", "0xA")), 10**9)
    assert forgotten == ["0x0a"]


@pytest.mark.parametrize("lease_jobs", [0, 8])
@pytest.mark.parametrize("is_covered", [False, True])
async def test_a_promise_that_was_lost_is_not_held_once_more(
    world: LeaseWorld, lease_jobs: int, is_covered: bool
) -> None:
    store = Breaking(world.redis)
    credit = world.process(lease_jobs, store)
    await hold(credit, JOB, 60)
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    owe(account, JOB, 30)
    store.is_late = True
    with pytest.raises(StoreUnreachable):
        await account.voucher(30)
    store.is_late = False
    await sell(world, 100 - await promised(world) - await world.held())
    if is_covered:
        # It is refused, and has heard what is on record.
        with pytest.raises(InsufficientFunds):
            await credit.cover(JOB, 90)
    owe(account, JOB, 30)
    assert (await account.voucher(60))[0].cumulative == 60
    assert await promised(world) == 60 + 40


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_hold_that_is_heard_after_its_jobs_end_holds_nothing(world: LeaseWorld, lease_jobs: int) -> None:
    store = Breaking(world.redis)
    credit = world.process(lease_jobs, store)
    world.balance = 1000
    await hold(credit, JOB, 20)
    store.is_deaf = True
    with pytest.raises(StoreUnreachable):
        await credit.cover(JOB, 200)
    store.is_deaf = False
    await credit.cover(JOB, 200)
    await credit.release(PAYER, JOB)
    await store.hear()
    assert await rest(world, credit) == 0
