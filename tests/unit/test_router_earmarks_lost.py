"""Earmarks where a store lost its last writes, or two routers have the same job: no sum twice, no node unpaid."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.books import Books
from tests.holds_world import account_of, receipt
from tests.lease_world import LEASES, NODE, PAYER, SIGNER, Breaking, LeaseWorld, buy, hold, line, promised

from retally.errors import InsufficientFunds, PaymentRequired
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.credit_keys import channel_key_of, earmarks_key, ended_key, open_key
from retally_router.earmarks import Ask, Count
from retally_router.job_log import JobLog, JobRecord
from retally_router.open_segments import OpenSegment, SegmentKey
from retally_router.store_errors import StoreUnreachable


def name(number: int) -> str:
    return f"{number:064x}"


def key(number: int) -> SegmentKey:
    return bytes.fromhex(name(number)), 0, 0


def segment(number: int, prompt: int = 0, most: int = 100) -> dict[SegmentKey, OpenSegment]:
    return {key(number): OpenSegment(prompt * 1_000_000, 1_000_000, most, name(number))}


async def begin(credit: Credit, books: Books, account: ChannelAccount, number: int, prompt: int = 0) -> None:
    await hold(credit, name(number), 100)
    await books.begin(name(number))
    await account.voucher(account.admit(segment(number, prompt, 100 - prompt)))


async def end(books: Books, account: ChannelAccount, number: int, start: int, beside: int = 0) -> None:
    """Its receipt is over a hundred; others have so much open beside it."""
    account.close(key(number), receipt(start, start + 100), beside)
    await books.record(account, name(number), start, start + 100)
    await account.put_on_record(0)


async def end_at_once(world: LeaseWorld, books: Books, account: ChannelAccount, number: int) -> None:
    before = await world.scripts()
    await end(books, account, number, 0)
    assert not account.owing
    assert await world.scripts() - before < 10


@contextlib.asynccontextmanager
async def lost(redis: Any) -> AsyncIterator[None]:
    """The store forgets what is written meanwhile."""
    before = {name: await redis.dump(name) for name in await redis.keys("*")}
    yield
    await redis.flushdb()
    for each, value in before.items():
        await redis.restore(each, 0, value)


async def test_what_a_lost_line_had_billed_is_not_spare(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    # The node shows what the store does not know of.
    account.promised = (await credit.promise(line(0), count=Count(500))).total
    account.delivered = 500
    account.tiling.close_to(500)
    await hold(credit, name(1), 100)
    await books.begin(name(1))
    total = account.admit(segment(1, prompt=60, most=40))
    assert (await account.voucher(total))[0].cumulative == total == 560


async def test_what_a_line_of_before_had_billed_is_not_spare(world: LeaseWorld, books: Books) -> None:
    await world.redis.hset(channel_key_of(line(0)), mapping={"promised": 500, "closed": 500})
    credit = world.process(0)
    await hold(credit, name(1), 100)
    await books.begin(name(1))
    account = account_of(credit)
    account.promised, account.tiling = await JobLog(world.redis).totals(line(0))
    await account.voucher(account.admit(segment(1, prompt=60, most=40)))
    assert await promised(world) == 60


async def test_a_lost_promise_is_nobody_elses(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    for number in (1, 2):
        await begin(credit, books, account, number)
    async with lost(world.redis):
        account.open.count(key(1), 100)
        await account.voucher(100)
    account.open.count(key(2), 100)
    await account.voucher(200)
    await end(books, account, 1, 0)
    await end(books, account, 2, 100)
    assert (await account.voucher(account.wanted))[0].cumulative == 200
    for number in (1, 2):
        await books.forget(name(number))
    assert await books.line() == (200, 0, 200)


async def test_lost_receipts_are_not_spare(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    for number in (1, 2):
        await begin(credit, books, account, number)
    account.open.count(key(1), 100)
    await account.voucher(100)
    async with lost(world.redis):
        await end(books, account, 1, 0)
        await books.forget(name(1))
    account.open.count(key(2), 100)
    await account.voucher(200)
    await end(books, account, 2, 100)
    assert (await account.voucher(account.wanted))[0].cumulative == 200


async def test_what_was_lost_with_the_record_is_held_anew_at_once(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    await begin(credit, books, account, 2)
    async with lost(world.redis):
        await begin(credit, books, account, 1, prompt=90)
    account.open.count(key(2), 100)
    await account.voucher(190)
    account.open.count(key(1), 10)
    await end_at_once(world, books, account, 1)


async def test_a_running_job_whose_record_was_lost_is_paid_as_it_runs(world: LeaseWorld, books: Books) -> None:
    credit = world.process(0)
    account = account_of(credit)
    async with lost(world.redis):
        await begin(credit, books, account, 1)
        account.open.count(key(1), 40)
        await account.voucher(40)
    account.open.count(key(1), 30)
    assert (await account.voucher(70))[0].cumulative == 70
    assert not account.earmarks[name(1)].is_gone


async def test_what_ended_jobs_keep_until_they_are_forgotten_has_nobody_promise_more(
    world: LeaseWorld, books: Books
) -> None:
    credit = world.process(0)
    account = account_of(credit)
    await begin(credit, books, account, 1)
    account.open.count(key(1), 80)
    await account.voucher(80)
    # It ends with less, and its voucher is on its way.
    account.close(key(1), receipt(0, 10))
    await books.record(account, name(1), 0, 10)
    await begin(credit, books, account, 2)
    account.open.count(key(2), 100)
    await account.voucher(110)
    assert await books.line() == (110, 70 + 30, 10)


async def test_a_job_whose_receipt_is_on_record_costs_no_more_than_that(world: LeaseWorld, books: Books) -> None:
    dead, credit = world.process(0), world.process(0)
    before, account, log = account_of(dead), account_of(credit), JobLog(world.redis)
    await begin(dead, books, before, 1)
    before.close(key(1), receipt(0, 80))
    await books.record(before, name(1), 0, 80)
    # It died before it promised that.
    account.promised, account.tiling = await log.totals(line(0))
    account.reopen(segment(1), await log.promised_for(PAYER, cast(Any, [SimpleNamespace(field=name(1))])))
    assert account.own_due == account.limit == 80
    await account.put_on_record(0)
    assert await books.line() == (80, 0, 80)


async def test_a_job_that_another_gave_up_too_early_is_held_anew(world: LeaseWorld, books: Books) -> None:
    credit, other = world.process(0), world.process(0)
    account = account_of(credit)
    for number in (1, 2):
        await begin(credit, books, account, number)
    account.open.count(key(1), 90)
    await account.voucher(90)
    await books.forget(name(1), is_others=True)
    await other.release(PAYER, name(1), settled=[name(1)])
    # The other job takes what was for it.
    account.open.count(key(2), 100)
    await account.voucher(190)
    account.open.count(key(1), 10)
    await end_at_once(world, books, account, 1)
    await end(books, account, 2, 100)
    assert account.promised >= 200


async def test_a_release_whose_answer_was_lost_is_no_other_release(world: LeaseWorld) -> None:
    store = Breaking(world.redis)
    credit, other = world.process(0), world.process(0, store)
    here, elsewhere = (f"0x{name(1)}:{node}:0" for node in ("0xA", "0xB"))
    await hold(credit, name(1), 100)
    for place in (here, elsewhere):
        await world.redis.hset(open_key(PAYER), place, "{}")
    store.is_late = True
    with pytest.raises(StoreUnreachable):
        await other.release(PAYER, name(1), settled=[here])
    store.is_late = False
    await other.tidy()
    assert await world.held() == 100
    assert not await world.redis.exists(ended_key(PAYER, name(1)))


@LEASES
@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_what_another_promised_without_the_lease_is_free_for_nobody(
    world: LeaseWorld, books: Books, lease_jobs: int, is_forgotten: bool
) -> None:
    """It has not heard that its lane lapsed, and another router settles its job."""
    credit, other = world.process(lease_jobs), world.process(0)
    account, its = account_of(credit), account_of(other)
    await begin(credit, books, account, 1)
    await buy(world)
    its.reopen(segment(1))
    await end(books, its, 1, 0)
    if is_forgotten:
        await books.forget(name(1), is_others=True)
    await end(books, account, 1, 0)
    await credit.release(PAYER, name(1))
    for number in range(2, 14):
        try:
            await begin(credit, books, account, number)
        except (PaymentRequired, InsufficientFunds):
            break
        await end(books, account, number, 100 * (number - 1))
        await books.forget(name(number))
        await credit.release(PAYER, name(number))
    assert await promised(world) <= world.balance
    assert dict(account.earmarks) == {}


async def test_what_another_puts_on_record_is_delivered_by_whoever_hears_of_it(world: LeaseWorld, books: Books) -> None:
    credit, other = world.process(0), world.process(0)
    account, its = account_of(credit), account_of(other)
    await begin(credit, books, account, 1)
    await begin(other, books, its, 2)
    # The other's receipt lies beyond a gap when it is put on record, and its own voucher is over its own part.
    await end(books, its, 2, 100, beside=100)
    await end(books, account, 1, 0)
    assert account.tiling.closed == account.wanted == 200
    assert (await account.voucher(account.wanted))[0].cumulative == 200
    assert await world.redis.hlen(earmarks_key(PAYER)) == 2


async def test_a_record_that_was_taken_up_is_forgotten_for_whoever_began_it(world: LeaseWorld) -> None:
    credit, theirs, ours = world.process(0), JobLog(world.redis), JobLog(world.redis)
    request = {"payer": PAYER, "signer": SIGNER}
    record = JobRecord(f"0x{name(1)}", request, NODE, "http://n", "m", {}, 0, 1, ((0, 0, 0),))
    ask = Ask(record.field, name(1), 60, is_own=True)
    await hold(credit, name(1), 100)
    for log, is_settled in ((ours, False), (theirs, True)):
        await ours.begin(record)
        if is_settled:
            assert log.take_up(record)
        await log.forget(record)
        found = await credit.promise(record.channel, [ask])
        # What its own router forgot, or the store, may be promised still.
        assert (found.earmarks[record.field] is None) == is_settled
        await ours.forget(record)
    assert await promised(world) == 60
