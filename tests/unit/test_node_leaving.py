"""Collecting out of turn: before somebody leaves with what is owed, and never for nothing again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes_node import START, Customer, FakeCollect, FakePayers, World, open_world
from tests.unit.test_node_settlement import serve

from retally.chain.escrow import CollectItem
from retally.errors import ChainUnreachable
from retally.protocol.encoding import Address
from retally_node.leaving import LAST_CALL_SECONDS, LATE_SECONDS, PAUSE_SECONDS
from retally_node.ports import Standing


class CountedCollect(FakeCollect):
    """An Escrow that counts transactions, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.is_down = False

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        if self.is_down:
            raise ChainUnreachable("the chain does not answer")
        self.sent += 1
        await super().collect(items, root)


class CountedPayers(FakePayers):
    """Payers that count how often they are asked for."""

    asked = 0

    async def standing(self, payer: Address, signer: Address) -> Standing:
        self.asked += 1
        return await super().standing(payer, signer)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = await open_world(tmp_path, CountedCollect())
    await world.node.settlement.step()
    return world


def sent(world: World) -> int:
    assert isinstance(world.collect, CountedCollect)
    return world.collect.sent


def stand(world: World, **changes: int | None) -> None:
    world.payers.standing_now = replace(world.payers.standing_now, **changes)


async def watch(world: World, rounds: int = 1, seconds: int = 31) -> None:
    for _ in range(rounds):
        world.clock.time += seconds
        await world.node.settlement.step()


class TestThaw:
    async def test_takes_nothing_along_as_long_as_the_rest_covers_what_is_owed(self, world: World) -> None:
        cost = await serve(world, Customer())
        stand(world, balance=cost + 7, thawing=7)
        await watch(world)
        assert sent(world) == 0
        stand(world, thawing=8)
        await watch(world)
        assert sent(world) == 1
        await world.close()

    async def test_what_other_signers_of_the_payer_owe_counts(self, world: World) -> None:
        cost = await serve(world, Customer(lane=1)) + await serve(world, Customer(lane=2))
        stand(world, balance=cost, thawing=1)
        await watch(world)
        assert sent(world) == 1
        await world.close()

    async def test_jobs_under_a_thaw_cost_one_transaction_in_a_while(self, world: World) -> None:
        stand(world, thawing=world.payers.standing_now.balance, reserved=10**6)
        for _ in range(20):
            await serve(world, Customer())
            stand(world, reserved=0)
            await watch(world)
            stand(world, reserved=10**6)
        assert sent(world) == 1
        stand(world, reserved=0)
        await watch(world, seconds=PAUSE_SECONDS)
        assert sent(world) == 2
        await world.close()

    async def test_one_that_pays_nothing_is_not_tried_again(self, world: World) -> None:
        await serve(world, Customer())
        world.collect.funds = 0
        stand(world, balance=0, thawing=1)
        await watch(world, rounds=4, seconds=2 * PAUSE_SECONDS)
        assert sent(world) == 1
        await world.close()

    async def test_one_that_could_not_be_sent_is_tried_again(self, world: World) -> None:
        await serve(world, Customer())
        stand(world, thawing=world.payers.standing_now.balance)
        assert isinstance(world.collect, CountedCollect)
        world.collect.is_down = True
        with pytest.raises(ChainUnreachable):
            await watch(world)
        world.collect.is_down = False
        await watch(world)
        assert sent(world) == 1
        await world.close()


class TestExpiry:
    async def test_from_a_signer_that_has_expired_nothing_can_be_collected(self, world: World) -> None:
        await serve(world, Customer())
        stand(world, expiry=world.clock.time - 1)
        await watch(world, rounds=10)
        assert sent(world) == 0
        await world.close()

    async def test_one_that_runs_out_is_collected_from_now_and_at_the_last_call(self, world: World) -> None:
        async def serve_and_run_out() -> None:
            stand(world, expiry=START + 30 * 86_400)
            await serve(world, Customer())
            stand(world, expiry=START + 3000)

        await serve_and_run_out()
        await watch(world)
        assert sent(world) == 1
        for _ in range(20):
            await serve_and_run_out()
            await watch(world)
        assert sent(world) == 1
        world.clock.time = START + 3000 - LAST_CALL_SECONDS
        for _ in range(3):
            await watch(world)
            await serve_and_run_out()
        assert sent(world) == 2
        await world.close()


class TestLate:
    async def test_a_receipt_is_collected_before_it_gets_too_late(self, world: World) -> None:
        stand(world, expiry=START + 100 * 86_400)
        await serve(world, Customer())
        await watch(world)
        assert sent(world) == 0
        world.clock.time = START + LATE_SECONDS - 600
        await world.node.ledger.commits.set_mark("settled_at", world.clock.time)
        await watch(world)
        assert sent(world) == 1
        assert sum(world.collect.paid.values()) > 0
        await world.close()


class TestAsking:
    async def test_asks_once_for_a_payer_and_its_signer(self, world: World) -> None:
        for lane in range(3):
            await serve(world, Customer(lane=lane))
        payers = CountedPayers(world.payers.standing_now)
        world.node.settlement._leavers._payers = payers
        await watch(world)
        assert payers.asked == 1
        await world.close()
