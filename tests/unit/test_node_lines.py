"""What goes under a root: the line of a channel, as far as it tiles and was paid for in time."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes_node import START, Customer, FakeCollect, World, open_world
from tests.unit.test_node_settlement import serve

from retally.protocol.voucher import ChannelId
from retally_node.leaving import LATE_MARGIN_SECONDS, LATE_SECONDS
from retally_node.settlement import plan_collect

#: The last moment at which a receipt of `Customer` is in time, by the deadline of its request.
IN_TIME = START + 3600 + LATE_SECONDS - LATE_MARGIN_SECONDS


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


class CountedCollect(FakeCollect):
    """An Escrow that remembers how many channels it was asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def collected(self, channels: Sequence[ChannelId]) -> list[int]:
        self.asked.append(len(channels))
        return await super().collected(channels)


def strike_out(world: World, cum_from: int) -> None:
    """Lose a receipt, as no node may."""
    connection = sqlite3.connect(world.node.settings.data_dir / "ledger.sqlite")
    connection.execute("DELETE FROM receipts WHERE cum_from = ?", (cum_from.to_bytes(12, "big"),))
    connection.commit()
    connection.close()


async def pay(world: World, customer: Customer, amount: int) -> None:
    channel = world.node.book.get(customer.channel)
    await world.node.ledger.money.keep_voucher(channel, *customer.voucher(amount))


class TestTiling:
    async def test_ends_before_a_gap(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        customer = Customer()
        first, second = await serve(world, customer), await serve(world, customer)
        await serve(world, customer)
        strike_out(world, first)
        with caplog.at_level(logging.ERROR):
            plan = plan_collect(world.node.book.all(), world.node.ledger, START)
        assert [record.receipt.cum_to for record in plan.receipts] == [first]
        assert plan.items[0].covered == first
        assert f"a receipt begins at {first + second} where the line ends at {first}" in caplog.text
        assert (await world.node.settlement.settle_now()).paid == first
        assert (await world.node.settlement.settle_now()).paid == 0
        await world.close()

    async def test_collects_nothing_behind_a_gap_at_the_start(self, world: World) -> None:
        customer = Customer()
        for _ in range(2):
            await serve(world, customer)
        strike_out(world, 0)
        assert plan_collect(world.node.book.all(), world.node.ledger, START).items == ()
        await world.close()


class TestLate:
    async def test_what_was_paid_for_too_late_is_not_committed(self, world: World) -> None:
        customer = Customer()
        cost = await serve(world, customer, cumulative=60)
        assert (await world.node.settlement.settle_now()).paid == 60
        await pay(world, customer, cost)
        world.clock.time = IN_TIME + 1
        assert (await world.node.settlement.settle_now()).paid == 0
        world.clock.time = IN_TIME
        assert (await world.node.settlement.settle_now()).paid == cost - 60
        await world.close()

    async def test_the_line_ends_before_it(self, world: World) -> None:
        customer = Customer()
        first = await serve(world, customer, deadline=START + 7200)
        await serve(world, customer)
        world.clock.time = IN_TIME + 1
        assert (await world.node.settlement.settle_now()).paid == first
        await world.close()

    async def test_who_pays_late_does_not_make_worthless_all_that_is_behind(self, world: World) -> None:
        customer = Customer()
        late = await serve(world, customer)
        world.clock.time = IN_TIME + 1
        soon = {"deadline": world.clock.time + 60}
        behind = await serve(world, customer, **soon)
        assert behind == late
        assert (await world.node.settlement.settle_now()).paid == 0
        behind += await serve(world, customer, **soon) + await serve(world, customer, **soon)
        assert (await world.node.settlement.settle_now()).paid == late + behind
        await world.close()


class TestAsked:
    async def test_only_for_channels_that_can_pay_and_so_many_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("retally_node.settlement.MAX_ASKED", 2)
        collect = CountedCollect()
        world = await open_world(tmp_path, collect)
        for lane in range(500):
            # Who was never billed owes nothing, whatever it promised.
            world.node.book.get(Customer(lane=1000 + lane).channel).best = 5
        costs = [await serve(world, Customer(lane=lane)) for lane in range(5)]
        await world.node.settlement.reconcile()
        assert collect.asked == [2, 2, 1]
        assert (await world.node.settlement.settle_now()).paid == sum(costs)
        collect.block += 1000
        # Once more after their blocks can be replaced no more.
        for _ in range(3):
            await world.node.settlement.settle_now()
        collect.asked.clear()
        await world.node.settlement.settle_now()
        assert collect.asked == []
        await world.close()

    async def test_for_all_that_ever_billed_after_a_start(self, world: World, tmp_path: Path) -> None:
        customer = Customer()
        cost = await serve(world, customer)
        await world.node.settlement.settle_now()
        world.collect.block += 1000
        await world.node.settlement.step()
        await world.close()
        world.collect.paid.clear()  # taken back while nobody looked
        world.collect.mined.clear()
        again = await open_world(tmp_path, world.collect)
        channel = again.node.book.get(customer.channel)
        assert channel.collected == cost
        await again.node.settlement.settle_now()
        assert world.collect.paid[customer.channel.key] == cost
        await again.close()
