"""What the money paths cost, so that a change that makes them dearer is seen."""

from __future__ import annotations

import pytest

from tests.contracts.world import DOLLAR, OPERATOR, World


class TestGas:
    @pytest.mark.parametrize(("count", "limit"), [(1, 130_000), (10, 32_000), (100, 23_000)])
    def test_of_collecting_an_item_again(self, world: World, count: int, limit: int) -> None:
        node = world.node(world.operator())
        payers = [world.payer() for _ in range(count)]
        world.collect(node, *[world.item(payer, node, 1_000) for payer in payers])
        done = world.collect(node, *[world.item(payer, node, 2_000) for payer in payers])
        each = done.receipt["gasUsed"] // count
        print(f"collect {count}: {each} gas an item")
        assert done.paid == 1_000 * count
        assert each <= limit

    def test_of_deposits_and_stakes(self, world: World) -> None:
        payer = world.party()
        deposit, stake = world.escrow.functions.deposit, world.staking.functions.stake
        costs = {
            "deposit new": world.send(payer, deposit(payer.address, DOLLAR))["gasUsed"],
            "deposit again": world.send(payer, deposit(payer.address, DOLLAR))["gasUsed"],
            "stake new": world.send(payer, stake(OPERATOR, 1_000 * DOLLAR))["gasUsed"],
            "stake again": world.send(payer, stake(OPERATOR, DOLLAR))["gasUsed"],
            "thaw": world.send(payer, world.staking.functions.thaw(OPERATOR, DOLLAR))["gasUsed"],
        }
        print(costs)
        assert costs["deposit new"] <= 90_000
        assert costs["deposit again"] <= 60_000
        assert costs["stake new"] <= 190_000
        assert costs["stake again"] <= 70_000
