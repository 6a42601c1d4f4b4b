"""Jobs of one channel: each one's fee is promised out of what it holds itself, whatever the channel's total covers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.holds_world import KEY, SlowNode, rest, settling
from tests.lease_world import PAYER, LeaseWorld, hold, line, promised, sell

from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
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


@dataclass
class Receipt:
    """What a channel reads of one."""

    fee: int
    cum_from: int
    cum_to: int = field(init=False)

    def __post_init__(self) -> None:
        self.cum_to = self.cum_from + self.fee


def receipt(fee: int, start: int) -> JobReceipt:
    return cast(JobReceipt, Receipt(fee, start))


def key(job: str) -> SegmentKey:
    return bytes.fromhex(job), 0, 0


def segment(most: int, prompt: int = 0) -> OpenSegment:
    """Of a job whose prompt costs so much, and each of at most so many tokens one."""
    return OpenSegment(prompt * 1_000_000, 1_000_000, most)


def channel(credit: Credit) -> ChannelAccount:
    return ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise, credit.promised)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_job_that_lived_on_anothers_prompt_pays_for_itself_when_it_ends(
    world: LeaseWorld, node: SlowNode, lease_jobs: int
) -> None:
    credit, sender = world.process(lease_jobs), VoucherSender(cast(Any, node))
    settle, account = settling(credit, sender), channel(credit)
    for job in (A, C):
        await hold(credit, job, 150)
    await account.voucher(account.admit({key(A): segment(150)}))
    # It waits at the node, its prompt paid.
    await account.voucher(account.admit({key(C): segment(100, 50)}))
    account.open.count(key(A), 100)
    account.note_due(100)
    account.close(key(A), receipt(100, 0))
    sender.pay(account)
    assert account.promised >= account.wanted, "no voucher is missing"
    await settle.release(PAYER, A, account)
    assert await promised(world) + await rest(world, credit) >= 100 + 150
    await sell(world, 300 - await promised(world) - await world.held())
    account.open.count(key(C), 100)
    account.note_due(250)
    account.close(key(C), receipt(150, 100))
    sender.pay(account)
    await settle.release(PAYER, C, account)
    assert await sender.drain(3)
    assert (await promised(world), await world.held(), account.delivered) == (300, 0, 250)
    await sender.close()


async def test_what_is_billed_beyond_a_gap_stays_owed_by_its_job(world: LeaseWorld) -> None:
    promises: list[dict[str, int]] = []

    async def promise(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        promises.append(dict(jobs))
        return total

    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", promise)
    for job, prompt in ((A, 10), (C, 50), (B, 10)):
        await account.voucher(account.admit({key(job): segment(100, prompt)}))
    account.open.count(key(B), 60)
    # A's receipt of the 20 before it was not read yet.
    account.close(key(B), receipt(70, 20))
    await account.voucher(account.promised + 1)
    await account.put_on_record(account.needed)
    assert sum(jobs.get(B, 0) for jobs in promises) == 70
    assert not account.owing


async def test_a_receipt_that_was_counted_but_not_recorded_is_owed_once(world: LeaseWorld, node: SlowNode) -> None:
    world.balance = 200
    credit, sender = world.process(0), VoucherSender(cast(Any, node))
    settle, account = settling(credit, sender), channel(credit)
    for job in (A, C):
        await hold(credit, job, 100)
    account.admit({key(A): segment(100), key(C): segment(100)})
    await account.voucher(20)
    account.open.count(key(A), 100)
    known = account.open[key(A)]
    account.close(key(A), receipt(100, 0))
    # The store broke off, and the node shows it once more.
    account.reopen({key(A): known})
    assert (account.own_due, account.limit) == (100, 200)
    account.close(key(A), receipt(100, 0))
    account.open.count(key(C), 100)
    account.close(key(C), receipt(100, 100))
    sender.pay(account)
    for job in (A, C):
        await settle.release(PAYER, job, account)
    assert await sender.drain(3)
    assert (await promised(world), account.delivered, await world.held()) == (200, 200, 0)
    await sender.close()


async def test_what_an_earlier_life_promised_is_no_new_jobs_to_pay(world: LeaseWorld) -> None:
    dead, credit = world.process(0), world.process(0)
    for job in (A, B):
        await hold(dead, job, 100)
    before = channel(dead)
    await before.voucher(before.admit({key(A): segment(100), key(B): segment(100)}) + 60)
    # It died; another process goes on with the channel, for a new job too.
    account = channel(credit)
    account.promised = before.promised
    account.reopen({key(A): segment(100), key(B): segment(100)})
    account.spread()
    assert account.needed == account.promised
    await hold(credit, C, 100)
    await account.voucher(account.admit({key(C): segment(100)}))
    for number, job in enumerate((C, B, A)):
        account.open.count(key(job), 100)
        account.close(key(job), receipt(100, 100 * number))
        await account.put_on_record(account.needed)
        if job == C:
            # All that it holds has gone into its own fee.
            assert (await credit.holds(PAYER, account.channel.signer)).count((C, 0)) == 1
            await credit.release(PAYER, C)
    assert (account.promised, await promised(world)) == (300, 300)


async def test_a_promise_under_way_counts_for_a_segment_that_closes_meanwhile(world: LeaseWorld) -> None:
    credit, gate = world.process(0), asyncio.Event()
    await hold(credit, A, 100)

    async def slow(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        await gate.wait()
        return await credit.promise(channel, total, jobs)

    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", slow, credit.promised)
    account.admit({key(A): segment(100)})
    account.open.count(key(A), 80)
    asking = asyncio.create_task(account.put_on_record(70))
    await asyncio.sleep(0.01)
    account.close(key(A), receipt(90, 0))
    gate.set()
    await asking
    assert account.owing == {bytes.fromhex(A): 20}
    await account.put_on_record(account.needed)
    assert (await promised(world), account.owing, await world.held()) == (90, {}, 10)


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
        await account.voucher(account.admit({key(job): segment(100)}))
    account.open.count(key(A), 1)
    account.note_due(1)
    # This is asked for while another promise is under way; meanwhile the others end.
    total = account.admit({key(B): segment(10)})
    account.close(key(A), receipt(1, 0))
    account.open.count(key(C), 5)
    account.close(key(C), receipt(5, 1))
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
    account.admit({key(A): segment(1000)})
    await account.voucher(1)
    segments = {key(B): segment(1000)}
    await account.voucher(account.admit(segments))
    await account.voucher(account.most_before(segments))
    assert await promised(world) + await rest(world, credit) == 2000
    assert sum(part.left for job in (A, B) if (part := credit.leases.part_of(job))) == 2000 - account.promised


async def test_a_due_that_the_receipt_falls_short_of_is_owed_no_more(world: LeaseWorld, node: SlowNode) -> None:
    credit, sender, acted = world.process(0), VoucherSender(cast(Any, node)), list[str]()
    await hold(credit, A, 100)
    account = channel(credit)
    await account.voucher(account.admit({key(A): segment(100)}))
    account.open.count(key(A), 20)
    account.note_due(84)

    async def act() -> None:
        acted.append("paid")

    await sender.once_paid(account, act)
    # It broke off, and its receipt is over what came.
    account.close(key(A), receipt(20, 0))
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

    async def unanswered(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        found = await credit.promise(channel, total, jobs)
        if is_lost:
            raise StoreUnreachable("gone before it answered")
        return found

    for job in (A, B):
        await hold(credit, job, 100)
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", unanswered, credit.promised)
    account.admit({key(A): segment(100)})
    await account.put_on_record(1)
    account.admit({key(B): segment(100)})
    account.open.count(key(A), 60)
    account.note_due(60)
    is_lost = True
    with pytest.raises(StoreUnreachable):
        await account.voucher(60)
    is_lost = False
    account.open.count(key(B), 60)
    account.close(key(B), receipt(60, 0))
    sender.pay(account)
    await settle.release(PAYER, B, account)
    assert await promised(world) + await rest(world, credit) == 60 + 100
    await sell(world, 40)
    account.open.count(key(A), 40)
    account.close(key(A), receipt(100, 60))
    assert (await account.voucher(account.needed))[0].cumulative == 160
    assert (await promised(world), account.owing) == (200, {})
    await sender.close()
    await settle.close()
