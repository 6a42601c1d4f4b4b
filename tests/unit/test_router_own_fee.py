"""Jobs of one channel: each one's fee is promised out of what it holds itself, whatever the channel's total covers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.books import Books
from tests.fakes_world import DOMAIN
from tests.holds_world import KEY, Plenty, SlowNode, bill, rest, settling
from tests.lease_world import PAYER, LeaseWorld, hold, line, promised, sell

from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmarks import Ask, Count, Mark, Promised
from retally_router.job_log import JobLog
from retally_router.open_segments import OpenSegment, SegmentKey
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

A, B, C = "0a" * 32, "0b" * 32, "0c" * 32


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=300)


@pytest.fixture
def node() -> SlowNode:
    node = SlowNode()
    node.gate.set()
    return node


def key(job: str) -> SegmentKey:
    return bytes.fromhex(job), 0, 0


def segment(job: str, most: int, prompt: int = 0) -> dict[SegmentKey, OpenSegment]:
    """Of a job whose prompt costs so much, and each of at most so many tokens one."""
    return {key(job): OpenSegment(prompt * 1_000_000, 1_000_000, most, job)}


def channel(credit: Credit) -> ChannelAccount:
    return ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_job_that_lived_on_anothers_prompt_pays_for_itself_when_it_ends(
    world: LeaseWorld, node: SlowNode, lease_jobs: int
) -> None:
    credit, sender = world.process(lease_jobs), VoucherSender(cast(Any, node))
    settle, account = settling(credit, sender), channel(credit)
    for job in (A, C):
        await hold(credit, job, 150)
    await account.voucher(account.admit(segment(A, 150)))
    # It waits at the node, its prompt paid.
    await account.voucher(account.admit(segment(C, 100, 50)))
    account.open.count(key(A), 100)
    account.note_due(100)
    bill(account, 100, 0, A)
    sender.pay(account)
    assert account.promised >= account.wanted, "no voucher is missing"
    await settle.release(PAYER, A, account)
    assert await promised(world) + await rest(world, credit) >= 100 + 150
    await sell(world, 300 - await promised(world) - await world.held())
    account.open.count(key(C), 100)
    account.note_due(250)
    bill(account, 150, 100, C)
    sender.pay(account)
    await settle.release(PAYER, C, account)
    assert await sender.drain(3)
    assert (await promised(world), await world.held(), account.delivered) == (300, 0, 250)
    await sender.close()


async def test_what_is_billed_beyond_a_gap_stays_owed_by_its_job(world: LeaseWorld) -> None:
    plenty = Plenty()
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", plenty.promise)
    for job, prompt in ((A, 10), (C, 50), (B, 10)):
        await account.voucher(account.admit(segment(job, 100, prompt)))
    account.open.count(key(B), 60)
    # A's receipt of the 20 before it was not read yet.
    bill(account, 70, 20, B)
    await account.voucher(account.promised + 1)
    await account.put_on_record(0)
    assert plenty.marks[B] == 70
    assert not account.owing


async def test_a_receipt_that_was_counted_but_not_recorded_is_owed_once(world: LeaseWorld, node: SlowNode) -> None:
    world.balance = 200
    credit, sender = world.process(0), VoucherSender(cast(Any, node))
    settle, account = settling(credit, sender), channel(credit)
    for job in (A, C):
        await hold(credit, job, 100)
    account.admit(segment(A, 100) | segment(C, 100))
    await account.voucher(20)
    account.open.count(key(A), 100)
    known = account.open[key(A)]
    bill(account, 100, 0, A)
    # The store broke off, and the node shows it once more.
    account.reopen({key(A): known})
    assert (account.own_due, account.limit) == (100, 200)
    bill(account, 100, 0, A)
    account.open.count(key(C), 100)
    bill(account, 100, 100, C)
    sender.pay(account)
    for job in (A, C):
        await settle.release(PAYER, job, account)
    assert await sender.drain(3)
    assert (await promised(world), account.delivered, await world.held()) == (200, 200, 0)
    await sender.close()


async def test_what_an_earlier_life_promised_for_a_job_is_promised_once(world: LeaseWorld) -> None:
    dead, credit, books = world.process(0), world.process(0), Books(world.redis, line(0))
    for job in (A, B):
        await hold(dead, job, 100)
        await books.begin(job)
    before = channel(dead)
    before.admit(segment(A, 100) | segment(B, 100))
    await before.voucher(60)
    # It died; another process goes on with the channel, for a new job too.
    account, log = channel(credit), JobLog(world.redis)
    account.promised, account.tiling = await log.totals(line(0))
    known = await log.promised_for(PAYER, cast(Any, [SimpleNamespace(field=job) for job in (A, B)]))
    assert (account.promised, known) == (60, {A: Mark(60, 60)})
    account.reopen(segment(A, 100) | segment(B, 100), known)
    await hold(credit, C, 100)
    await account.voucher(account.admit(segment(C, 100)))
    for number, job in enumerate((C, B, A)):
        account.open.count(key(job), 100)
        bill(account, 100, 100 * number, job)
        await account.put_on_record(0)
        # All that it holds has gone into its own fee, and into no other's.
        assert (job, 0) in await credit.holds(PAYER, account.channel.signer)
        await credit.release(PAYER, job)
    assert (account.promised, await promised(world), await world.held()) == (300, 300, 0)


async def test_a_promise_under_way_counts_for_a_segment_that_closes_meanwhile(world: LeaseWorld) -> None:
    credit, gate, asked = world.process(0), asyncio.Event(), list[int]()
    await hold(credit, A, 100)

    async def slow(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        asked.extend(ask.total for ask in asks)
        await gate.wait()
        return await credit.promise(channel, asks, count)

    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", slow)
    account.admit(segment(A, 100))
    account.open.count(key(A), 80)
    asking = asyncio.create_task(account.put_on_record(70))
    await asyncio.sleep(0.01)
    bill(account, 90, 0, A)
    gate.set()
    await asking
    # No more than the rest is asked for.
    await account.put_on_record(0)
    assert (asked, await promised(world), account.owing, await world.held()) == ([70, 90], 90, {}, 10)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_total_of_jobs_that_ended_meanwhile_is_promised_out_of_nothing(
    world: LeaseWorld, lease_jobs: int
) -> None:
    world.balance = 210
    credit = world.process(lease_jobs)
    settle, account = settling(credit, VoucherSender(cast(Any, SlowNode()))), channel(credit)
    for job, most in ((A, 100), (C, 100), (B, 10)):
        await hold(credit, job, most)
    for job in (A, C):
        await account.voucher(account.admit(segment(job, 100)))
    account.open.count(key(A), 1)
    account.note_due(1)
    # This is asked for while another promise is under way; meanwhile the others end.
    total = account.admit(segment(B, 10))
    bill(account, 1, 0, A)
    account.open.count(key(C), 5)
    bill(account, 5, 1, C)
    for job in (A, C):
        await settle.release(PAYER, job, account)
    await sell(world, 210 - await promised(world) - await rest(world, credit))
    voucher, _ = await account.voucher(total)
    assert voucher.cumulative == account.promised < total
    assert await promised(world) + await world.held() <= 210
    await settle.close()


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_what_a_node_asks_for_beyond_what_it_made_is_held_by_no_job_any_more(
    world: LeaseWorld, lease_jobs: int
) -> None:
    world.balance = 2000
    credit = world.process(lease_jobs)
    for job in (A, B):
        await hold(credit, job, 1000)
    account = channel(credit)
    account.admit(segment(A, 1000))
    await account.voucher(1)
    segments = segment(B, 1000)
    await account.voucher(account.admit(segments))
    await account.voucher(account.most_before(segments))
    assert await promised(world) + await rest(world, credit) == 2000
    assert sum(part.left for job in (A, B) if (part := credit.leases.part_of(job))) == 2000 - account.promised


async def test_a_due_that_the_receipt_falls_short_of_is_owed_no_more(world: LeaseWorld, node: SlowNode) -> None:
    credit, sender, acted = world.process(0), VoucherSender(cast(Any, node)), list[str]()
    await hold(credit, A, 100)
    account = channel(credit)
    await account.voucher(account.admit(segment(A, 100)))
    account.open.count(key(A), 20)
    account.note_due(84)

    async def act() -> None:
        acted.append("paid")

    await sender.once_paid(account, act, key(A)[0])
    # It broke off, and its receipt is over what came.
    bill(account, 20, 0, A)
    assert account.wanted == 20
    sender.pay(account)
    assert await sender.drain(3)
    assert (await promised(world), acted) == (20, ["paid"])
    await sender.close()


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_promise_whose_answer_was_lost_is_its_own_jobs(
    world: LeaseWorld, node: SlowNode, lease_jobs: int
) -> None:
    world.balance, is_lost = 200, False
    credit, sender = world.process(lease_jobs), VoucherSender(cast(Any, node))
    settle = settling(credit, sender)

    async def unanswered(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        found = await credit.promise(channel, asks, count)
        if is_lost:
            raise StoreUnreachable("gone before it answered")
        return found

    for job in (A, B):
        await hold(credit, job, 100)
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", unanswered)
    account.admit(segment(A, 100))
    await account.put_on_record(1)
    account.admit(segment(B, 100))
    account.open.count(key(A), 60)
    account.note_due(60)
    is_lost = True
    with pytest.raises(StoreUnreachable):
        await account.voucher(60)
    is_lost = False
    account.open.count(key(B), 60)
    bill(account, 60, 0, B)
    sender.pay(account)
    await settle.release(PAYER, B, account)
    assert await promised(world) + await rest(world, credit) == 60 + 100
    await sell(world, 40)
    account.open.count(key(A), 40)
    bill(account, 100, 60, A)
    await account.put_on_record(0)
    assert (await account.voucher(account.wanted))[0].cumulative == 160
    assert (await promised(world), account.owing) == (200, {})
    await sender.close()
    await settle.close()
