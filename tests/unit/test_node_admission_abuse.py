"""Admission by those who pay nothing: what a refused job may not cost the node."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_node import START, Customer, World, open_world

from retally.errors import ContextExceeded, InsufficientFunds, RetallyError
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.encoding import ZERO_ADDRESS
from retally.protocol.voucher import Reservation
from retally_node.admission import PROMPTS_AT_ONCE, AdmittedJob
from retally_node.ledger.money import MOST_NEW
from retally_node.ports import Standing
from retally_node.run_job import run_job

STRANGER = SigningKey(keccak(b"stranger")).address
STANDING_EXPIRY = START + 30 * 86_400


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path, max_running=64)


async def never() -> bool:
    return False


async def test_jobs_that_come_together_share_what_their_payer_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Funds and cap are looked at when a job goes on the books, not only when it came."""

    async def slow(*_: object) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(world.node.admission._forms, "check", slow)
    customer = Customer()
    admitted = await world.node.admission.admit(await customer.submission(world.node, cumulative=10**6))
    assert isinstance(admitted, AdmittedJob)
    fee = world.node.book.committed()
    world.payers.standing_now = Standing(2 * fee, 0, 0, 2 * fee, STANDING_EXPIRY)
    asked = []
    for lane in range(20):
        customer.lane = 100 + lane
        asked.append(await customer.submission(world.node, cumulative=10**6))
    found = await asyncio.gather(*map(world.node.admission.admit, asked), return_exceptions=True)
    assert sum(isinstance(each, AdmittedJob) for each in found) == 1
    assert world.node.book.committed() == 2 * fee
    # What was refused left no place taken.
    assert sum(len(channel.open) for channel in world.node.book.all()) == 2
    await world.close()


async def test_a_refused_job_leaves_no_channel(world: World) -> None:
    """Lanes cost a payer nothing, and channels are kept for good."""
    customer = Customer()
    for lane in range(20):
        customer.lane = lane
        with pytest.raises(RetallyError, match="voucher") as refused:
            await world.node.admission.admit(await customer.submission(world.node, cumulative=1))
        assert refused.value.code == "voucher_too_low"
    assert world.node.book.all() == []
    assert world.node.ledger.money.channels(world.node.address) == []
    await world.close()


async def test_the_first_jobs_voucher_is_on_disk_before_it_runs(world: World, tmp_path: Path) -> None:
    customer = Customer()
    await world.node.admission.admit(await customer.submission(world.node, cumulative=10**6))
    (channel,) = world.node.ledger.money.channels(world.node.address)
    assert channel.best == world.node.book.all()[0].best == 10**6
    await world.close()


async def test_a_later_jobs_voucher_is_kept_though_it_is_refused(world: World) -> None:
    """Where something may be owed a signed promise counts, whatever becomes of the job that brought it."""
    customer = Customer()
    await run_job(world.node, await customer.submission(world.node, cumulative=10**6), never)
    world.node.admission._rules = replace(world.node.admission._rules, credit_per_payer=0, credit_total=0)
    with pytest.raises(InsufficientFunds):
        await world.node.admission.admit(await customer.submission(world.node, "another", cumulative=10**6 + 5))
    assert world.node.book.all()[0].best == 10**6 + 5
    await world.close()


async def test_nobody_without_funds_has_a_prompt_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of a long prompt take seconds, and keys to sign with are free."""
    read = count_reads(world, monkeypatch)
    submission = await Customer().submission(world.node, "count " * 10_000)
    read.clear()
    world.payers.standing_now = Standing(0, 0, 0, None, None)
    with pytest.raises(InsufficientFunds):
        await world.node.admission.admit(submission)
    foreign = replace(submission, request_signature=bytes(64))
    with pytest.raises(RetallyError, match="out of range"):
        await world.node.admission.admit(foreign)
    assert read == []
    await world.close()


async def test_prompts_are_read_beside_the_loop_and_few_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    payers = [Customer(payer=SigningKey(keccak(b"%d" % number)).address) for number in range(6)]
    asked = [await customer.submission(world.node, cumulative=10**6) for customer in payers]
    at_once, most, lock, parts = 0, 0, threading.Lock(), world.node.admission._forms.parts

    def slow(prompt: Any, date: str) -> Sequence[Sequence[int]]:
        nonlocal at_once, most
        assert threading.current_thread() is not threading.main_thread()
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.05)
        with lock:
            at_once -= 1
        return parts(prompt, date)

    monkeypatch.setattr(world.node.admission._forms, "parts", slow)
    await asyncio.gather(*map(world.node.admission.admit, asked), return_exceptions=True)
    assert most == PROMPTS_AT_ONCE
    await world.close()


async def test_an_answer_that_is_there_is_shown_to_a_payer_that_is_out_of_money(world: World) -> None:
    customer = Customer()
    submission = await customer.submission(world.node, cumulative=10**6)
    first = await run_job(world.node, submission, never)
    world.payers.standing_now, world.payers.is_reachable = Standing(0, 0, 0, None, None), False
    again = await run_job(world.node, submission, never)
    assert type(again) is type(first)
    await world.close()


async def test_a_prompt_that_cannot_fit_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short its tokens: none is longer than the longest there is."""
    read, context = count_reads(world, monkeypatch), world.node.settings.max_context
    longest = world.node.chat_format._longest_token
    for prompt in ({"prompt": "x" * (longest * (context + 1))}, {"promptIds": [1] * (context + 1)}):
        with pytest.raises(ContextExceeded):
            await world.node.admission.admit(await Customer().submission(world.node, prompt=prompt))
    assert read == []
    with pytest.raises(ContextExceeded):
        await world.node.admission.admit(await Customer().submission(world.node, "x" * (longest * context - 1)))
    assert len(read) == 1
    await world.close()


async def test_one_payers_long_prompts_leave_others_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, free = world.node.admission._forms.parts, threading.Event()

    def slow(prompt: Any, date: str) -> Sequence[Sequence[int]]:
        if "long" in str(prompt):
            free.wait(20)
        return parts(prompt, date)

    monkeypatch.setattr(world.node.admission._forms, "parts", slow)
    greedy = [
        asyncio.create_task(world.node.admission.admit(await Customer().submission(world.node, f"long {number}")))
        for number in range(5)
    ]
    await asyncio.sleep(0)
    other = Customer(payer=SigningKey(keccak(b"another payer")).address)
    try:
        async with asyncio.timeout(10):
            assert isinstance(await world.node.admission.admit(await other.submission(world.node)), AdmittedJob)
    finally:
        free.set()
    await asyncio.gather(*greedy)
    await world.close()


async def test_a_job_that_the_books_refuse_leaves_no_channel(world: World) -> None:
    """Its choice is open on another lane: that shows only as it is written down."""
    customer = Customer()
    submission = await customer.submission(world.node, stream=True)
    await world.node.admission.admit(submission)
    offer = (await world.node.offers.current()).offer
    for lane in range(1000, 1010):
        customer.lane = lane
        voucher, signature = customer.voucher(10**5)
        again = replace(
            submission,
            assignments=(customer.assign(submission.request, offer, (5, 6, 7)),),
            lane=lane,
            voucher=voucher,
            voucher_signature=signature,
        )
        with pytest.raises(RetallyError) as refused:
            await world.node.admission.admit(again)
        assert refused.value.code == "choice_open"
    assert len(world.node.book.all()) == len(world.node.ledger.money.channels(world.node.address)) == 1
    await world.close()


async def test_the_same_job_twice_at_once_is_told_so(world: World) -> None:
    """And not that its voucher is too low, which the first of them used up."""
    submission = await Customer(lane=9).submission(world.node, cumulative=60)
    admitted = (world.node.admission.admit(submission) for _ in range(2))
    found = await asyncio.gather(*admitted, return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["AdmittedJob", "DuplicateJob"]
    await world.close()


async def test_first_jobs_on_one_lane_at_once_keep_the_best_voucher(world: World) -> None:
    customer = Customer(lane=10)
    asked = [await customer.submission(world.node, cumulative=cumulative) for cumulative in (500, 900, 700)]
    assert all(isinstance(each, AdmittedJob) for each in await asyncio.gather(*map(world.node.admission.admit, asked)))
    (channel,), (stored,) = world.node.book.all(), world.node.ledger.money.channels(world.node.address)
    assert (channel.best, stored.best, len(channel.open)) == (900, 900, 3)
    await world.close()


async def test_reservations_of_refused_jobs_do_not_pile_up(world: World) -> None:
    """Only the largest are kept, and none for a signer that did not ask."""
    customer, payer = Customer(), SigningKey(keccak(b"payer"))
    assert payer.address == customer.payer

    async def refused(signer: str, amount: int, epoch: int = 0) -> str:
        submission = await customer.submission(world.node, cumulative=0)
        reservation = Reservation(customer.payer, Address(signer), world.node.address, amount, epoch)
        signature = payer.sign(reservation.digest(customer.domain))
        with pytest.raises(RetallyError) as error:
            await world.node.admission.admit(
                replace(submission, reservation=reservation, reservation_signature=signature)
            )
        return error.value.code

    for amount in range(1, 30):
        assert await refused(ZERO_ADDRESS, amount) == "voucher_too_low"
        assert await refused(ZERO_ADDRESS, 5, epoch=amount) == "voucher_too_low"
    assert await refused(STRANGER, 10**6) == "voucher_mismatch"
    rows = world.node.ledger._database.read("SELECT * FROM reservations")
    assert len(rows) == MOST_NEW
    await world.close()


def count_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each prompt that is made tokens of."""
    read: list[str] = []
    parts = world.node.admission._forms.parts

    def noting(prompt: Any, date: str) -> Sequence[Sequence[int]]:
        read.append(date)
        return parts(prompt, date)

    monkeypatch.setattr(world.node.admission._forms, "parts", noting)
    return read
