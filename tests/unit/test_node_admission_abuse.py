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

from retally.errors import InsufficientFunds, RetallyError
from retally_node.admission import PROMPTS_AT_ONCE, AdmittedJob
from retally_node.ports import Standing
from retally_node.run_job import run_job

STANDING_EXPIRY = START + 30 * 86_400


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path, max_running=64)


async def never() -> bool:
    return False


async def test_jobs_that_come_together_share_what_their_payer_has(world: World) -> None:
    """Funds and cap are looked at when a job goes on the books, not only when it came."""
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
    customer = Customer()
    asked = [await customer.submission(world.node, f"count {number}", cumulative=10**6) for number in range(6)]
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


def count_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each prompt that is made tokens of."""
    read: list[str] = []
    parts = world.node.admission._forms.parts

    def noting(prompt: Any, date: str) -> Sequence[Sequence[int]]:
        read.append(date)
        return parts(prompt, date)

    monkeypatch.setattr(world.node.admission._forms, "parts", noting)
    return read
