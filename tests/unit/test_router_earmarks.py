"""What of a channel's total is for which job: asked twice it is done once, and what ended jobs left is taken first."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import pytest
from tests.books import Books
from tests.holds_world import JOB, SlowNode, TakingNode, account_of, receipt
from tests.lease_world import LEASES, PAYER, Breaking, LeaseWorld, buy, hold, line, lose, promised

from retally.errors import InsufficientFunds
from retally_router.credit import Credit
from retally_router.credit_keys import channel_key_of, earmarks_key
from retally_router.earmarks import Ask, Mark
from retally_router.open_segments import OpenSegment
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

SEGMENT = (bytes.fromhex(JOB), 0, 0)


async def ask(credit: Credit, job: str, total: int, **how: Any) -> tuple[int, int] | None:
    mark = (await credit.promise(line(0), [Ask(job, job, total, **how)])).earmarks[job]
    return None if mark is None else mark[:2]


async def leave_spare(credit: Credit, books: Books, promise: int = 100, billed: int = 40) -> None:
    """A job that was promised more than it billed, and is forgotten."""
    await hold(credit, "before", promise)
    await books.begin("before")
    await ask(credit, "before", promise)
    await books.record(account_of(credit), "before", 0, billed)
    await books.forget("before")
    await credit.release(PAYER, "before")


@LEASES
async def test_asked_twice_it_is_done_once(world: LeaseWorld, books: Books, lease_jobs: int) -> None:
    store = Breaking(world.redis)
    credit = world.process(lease_jobs, store)
    await hold(credit, "a", 100)
    await books.begin("a")
    store.is_late = True
    for total in (60, 60, 50):
        with pytest.raises(StoreUnreachable):
            await ask(credit, "a", total)
    store.is_late = False
    assert await promised(world) == 60
    assert await ask(credit, "a", 70) == (70, 70)
    assert await promised(world) == 70
    # All that is left, and no more, is held still.
    await credit.tidy()
    await buy(world)
    assert await ask(credit, "a", 100) == (100, 100)
    with pytest.raises(InsufficientFunds):
        await ask(credit, "a", 101, known=100)


@LEASES
async def test_what_ended_jobs_left_is_taken_before_what_is_held(
    world: LeaseWorld, books: Books, lease_jobs: int
) -> None:
    credit = world.process(lease_jobs)
    await leave_spare(credit, books)
    await hold(credit, "a", 100)
    await books.begin("a")
    assert await ask(credit, "a", 60) == (60, 0)
    assert await promised(world) == 100
    # What was not taken may be promised to another node, though everybody else has bought what was free.
    await buy(world)
    found = await credit.promise(line(1), [Ask("a2", "a", 100, is_own=True)])
    assert found.earmarks == {"a2": Mark(100, 100)}


async def test_two_jobs_do_not_both_take_what_is_spare(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    await leave_spare(credit, books)
    for job in "ab":
        await hold(credit, job, 60)
        await books.begin(job)
    found = await credit.promise(line(0), [Ask(job, job, 60) for job in "ab"])
    assert (found.total, found.earmarks) == (160, {"a": Mark(60), "b": Mark(60, 60)})
    await books.record(account_of(credit), "a", 40, 100)
    await books.record(account_of(credit), "b", 100, 150)
    for job in "ab":
        await books.forget(job)
    assert await books.line() == (160, 0, 150)


async def test_a_job_that_others_settled_owes_nothing_unless_its_receipt_is_new(
    world: LeaseWorld, books: Books
) -> None:
    credit = world.process(0)
    account = account_of(credit)
    await hold(credit, JOB, 100)
    await books.begin(JOB)
    account.admit({SEGMENT: OpenSegment(0, 1_000_000, 100, JOB)})
    await books.forget(JOB, is_others=True)
    account.close(SEGMENT, receipt(0, 80))
    await account.put_on_record(0)
    assert account.has_promised(SEGMENT[0])
    assert await promised(world) == 0
    # Nobody had that receipt: whoever forgot the job gave it up.
    await books.record(account, JOB, 0, 80)
    assert not account.has_promised(SEGMENT[0])
    await account.put_on_record(0)
    assert account.has_promised(SEGMENT[0])
    assert (await promised(world), await world.held()) == (80, 20)


async def test_a_promise_that_is_heard_after_its_job_was_forgotten_promises_nothing(
    world: LeaseWorld, books: Books
) -> None:
    store = Breaking(world.redis)
    credit = world.process(0, store)
    await hold(credit, "a", 100)
    await books.begin("a")
    store.is_deaf = True
    with pytest.raises(StoreUnreachable):
        await ask(credit, "a", 60)
    store.is_deaf = False
    await books.forget("a")
    await store.hear()
    assert await books.line() == (0, 0, 0)
    assert await books.is_empty()


async def test_a_promise_may_come_before_its_jobs_record(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    await hold(credit, "a", 100)
    assert await ask(credit, "a", 60) is None
    assert await ask(credit, "a", 60, is_own=True) == (60, 60)
    assert await ask(credit, "a", 70) == (70, 70)
    await books.forget("a")
    assert await books.line() == (70, 0, 0)


async def test_a_job_is_forgotten_only_once_it_owes_nothing(world: LeaseWorld, books: Books) -> None:
    """Where what others prepaid covers the channel's total, its node has all that is due, and it has not paid yet."""
    credit, node = world.process(0), SlowNode()
    node.gate.set()
    sender, account = VoucherSender(cast(Any, node)), account_of(credit)
    for job, most in ((JOB, 100), ("0b" * 32, 200)):
        await hold(credit, job, most)
        await books.begin(job)
        account.admit({(bytes.fromhex(job), 0, 0): OpenSegment(0, 1_000_000, most, job)})
    await credit.promise(line(0), [Ask("0b" * 32, "0b" * 32, 200)])
    account.promised = account.delivered = 200
    account.close(SEGMENT, receipt(0, 80))
    await books.record(account, JOB, 0, 80)
    assert account.delivered >= account.wanted
    await sender.once_paid(account, partial(books.forget, JOB), SEGMENT[0])
    assert await books.line() == (280, 200, 80)


async def test_a_store_that_lost_its_last_writes_takes_nothing_twice(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    await hold(credit, JOB, 100)
    await books.begin(JOB)
    await account.voucher(account.admit({SEGMENT: OpenSegment(0, 1_000_000, 100, JOB)}) + 50)
    assert account.promised == 50
    await world.redis.delete(channel_key_of(line(0)), earmarks_key(PAYER))
    account.open.count(SEGMENT, 80)
    await account.voucher(80)
    assert await books.line() == (80, 80, 0)
    assert await world.held() == 20


async def test_what_was_lost_with_the_hold_is_held_anew_or_refused(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    await hold(credit, "a", 100)
    await books.begin("a")
    await ask(credit, "a", 40)
    await lose(world)
    await buy(world, but=59)
    with pytest.raises(InsufficientFunds):
        await ask(credit, "a", 100, known=40)
    world.balance += 1
    assert await ask(credit, "a", 100, known=40) == (100, 100)


async def test_what_another_router_owes_is_waited_for_in_peace(world: LeaseWorld, books: Books) -> None:
    credit, node = world.process(0), TakingNode()
    sender, account, other = VoucherSender(cast(Any, node)), account_of(credit), account_of(credit)
    for job in (JOB, "theirs"):
        await hold(credit, job, 100)
        await books.begin(job)
    account.admit({SEGMENT: OpenSegment(0, 1_000_000, 100, JOB)})
    account.open.count(SEGMENT, 50)
    # Its receipt is on record, and not promised yet.
    await books.record(other, "theirs", 0, 100)
    await books.record(account, JOB, 0, 0)
    account.close(SEGMENT, receipt(100, 150))
    sender.pay(account)
    await asyncio.sleep(0.2)
    assert node.taken == ["50"]
    await ask(credit, "theirs", 100)
    assert await sender.drain(5.0)
    assert node.taken == ["50", "150"]
    await sender.close()
