"""What nobody vouched for: it ties up its own payer's credit, and nobody else's for longer than it can be collected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes_node import Customer, World, open_world

from retally.errors import InsufficientFunds
from retally.protocol.eip712 import SigningKey, keccak
from retally_node.admission import AdmittedJob
from retally_node.leaving import LATE_SECONDS
from retally_node.run_job import run_job
from retally_node.write_off import PAUSE_SECONDS, WriteOff

PROMPT = "x" * 20


async def never() -> bool:
    return False


def customer(name: str) -> Customer:
    key, payer = (SigningKey(keccak(f"{who}{name}".encode())) for who in ("", "payer of "))
    return Customer(key=key, payer=payer.address)


async def leave_unpaid(world: World, who: Customer) -> int:
    """A job whose last voucher never comes; what is missing."""
    job = await who.submission(world.node, PROMPT, params=who.params(max_tokens=24), cumulative=170)
    await run_job(world.node, job, never)
    (channel,) = [each for each in world.node.book.all() if each.id.payer == who.payer]
    assert channel.unpaid > 0
    return channel.unpaid


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path, credit_per_payer=500, credit_total=700)


async def test_is_no_part_of_the_credit_of_all_once_it_can_be_collected_no_more(world: World) -> None:
    node = world.node
    write_off = WriteOff(node.ledger, node.book, world.clock)
    first, honest = customer("first"), customer("honest")
    unpaid = await leave_unpaid(world, first)
    await node.settlement.step()
    await node.settlement.settle_now()
    await write_off.step()
    assert node.book.expected() == node.book.committed() == unpaid
    job = await honest.submission(node, PROMPT, cumulative=10**6)
    node.admission._rules = replace(node.admission._rules, credit_total=0)
    with pytest.raises(InsufficientFunds) as short:
        await node.admission.admit(job)
    node.admission._rules = replace(node.admission._rules, credit_total=short.value.needed - 1)
    with pytest.raises(InsufficientFunds):
        await node.admission.admit(job)
    world.clock.time += LATE_SECONDS + 10 * PAUSE_SECONDS
    await write_off.step()
    assert node.book.expected() == 0
    # It stays that payer's debt.
    assert node.book.committed_with(first.payer) == unpaid
    # Deadlines are by the same clock.
    job = await honest.submission(node, PROMPT, cumulative=10**6, deadline=world.clock.time + 3600)
    assert isinstance(await node.admission.admit(job), AdmittedJob)
    await world.close()


async def test_what_was_vouched_for_too_late_is_neither_debt_nor_expected(world: World) -> None:
    """It can't be committed any more, whoever was slow."""
    node, late = world.node, customer("late")
    await leave_unpaid(world, late)
    (channel,) = node.book.all()
    world.clock.time += LATE_SECONDS + 10 * PAUSE_SECONDS
    write_off = WriteOff(node.ledger, node.book, world.clock)
    await write_off.step()
    # The receipt as a whole: nothing of it was collected in time.
    assert (channel.lost, channel.expected, channel.committed) == (channel.last_cum, 0, channel.unpaid)
    voucher, signature = late.voucher(channel.last_cum)
    await node.ledger.money.keep_voucher(channel, voucher, signature)
    assert channel.expected == channel.committed == 0
    await world.close()


async def test_what_comes_behind_in_time_is_expected_with_it(world: World) -> None:
    node, late = world.node, customer("late")
    await leave_unpaid(world, late)
    (channel,) = node.book.all()
    world.clock.time += LATE_SECONDS + 10 * PAUSE_SECONDS
    job = await late.submission(node, PROMPT, cumulative=10**6, deadline=world.clock.time + 3600)
    await run_job(node, job, never)
    await WriteOff(node.ledger, node.book, world.clock).step()
    assert (channel.lost, channel.expected) == (0, channel.last_cum)
    await world.close()
