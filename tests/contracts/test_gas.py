"""What the money paths cost, so that a change that makes them dearer is seen. `scripts/gas` shows what they pay for."""

from __future__ import annotations

import pytest

from tests.contracts.world import DOLLAR, OPERATOR, World

# Above what is measured by about a hundredth: keys and amounts have other zero bytes in every run.
COLLECTS = [
    # items, payers, by a session signer, most gas an item
    (1, 1, False, 110_000),
    (10, 10, False, 28_200),
    (10, 1, True, 23_000),
    (100, 1, True, 13_500),
    (100, 1, False, 13_500),
    (100, 100, False, 20_000),
]


class TestGas:
    @pytest.mark.parametrize(("count", "payers", "session", "limit"), COLLECTS)
    def test_of_collecting_an_item_again(
        self, world: World, count: int, payers: int, session: bool, limit: int
    ) -> None:
        node = world.node(world.operator())
        parties = [
            (payer, world.signer(payer) if session else None) for payer in [world.payer() for _ in range(payers)]
        ]
        lines = [(*parties[i % payers], i // payers) for i in range(count)]
        for amount in (10_000, 20_000):
            items = [world.item(payer, node, amount, signer=signer, lane=lane) for payer, signer, lane in lines]
            done = world.collect(node, *items)
            assert done.paid == 10_000 * count
        each = done.receipt["gasUsed"] // count
        print(f"collect {count} of {payers}: {each} gas an item")
        assert each <= limit

    def test_of_deposits(self, world: World) -> None:
        world.payer()  # the contract's own slot in the asset is filled once
        payer = world.party()
        deposit, approve = world.escrow.functions.deposit, world.asset.functions.approve

        def used() -> int:
            return world.send(payer, deposit(payer.address, DOLLAR))["gasUsed"]

        costs = {"new": used(), "of a larger allowance": used()}
        world.send(payer, approve(world.escrow.address, DOLLAR))
        costs["of its own allowance"] = used()
        print(costs)
        assert costs["new"] <= 73_500
        assert costs["of a larger allowance"] <= 56_500
        assert costs["of its own allowance"] <= 52_000

    def test_of_stakes(self, world: World) -> None:
        world.operator()
        owner, functions = world.party(), world.staking.functions
        costs = {
            "stake new": world.send(owner, functions.stake(OPERATOR, 1_000 * DOLLAR))["gasUsed"],
            "stake again": world.send(owner, functions.stake(OPERATOR, DOLLAR))["gasUsed"],
            "thaw": world.send(owner, functions.thaw(OPERATOR, DOLLAR))["gasUsed"],
        }
        print(costs)
        assert costs["stake new"] <= 85_000
        assert costs["stake again"] <= 60_000
