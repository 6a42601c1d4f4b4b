"""Settlement: what is collected is covered by receipts and vouchers, once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_node import START, Customer, FakeCollect, World, open_world

from retally.chain.escrow import CollectItem
from retally.errors import RetallyError
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import AnswerRequest
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.merkle import leaf, verify
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.wire import SignedAnswerRequest
from retally_node.admission import AdmittedJob
from retally_node.settlement import plan_collect

VERIFIER = SigningKey(keccak(b"verifier"))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


class EmptyAccounts(FakeCollect):
    """An Escrow in which some lanes' payers have nothing left."""

    def __init__(self, lanes: set[int]) -> None:
        super().__init__()
        self.lanes = lanes

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        self.mine([item for item in items if item.voucher.lane not in self.lanes], root)


async def serve(world: World, customer: Customer, cumulative: int = 10**6, **request: Any) -> int:
    """Serve one job; return what it cost."""
    before = world.node.channel_state(customer.channel).last_cum_to
    job = await world.node.admission.admit(await customer.submission(world.node, cumulative=cumulative, **request))
    assert isinstance(job, AdmittedJob)
    await world.node.server.start(job).closed()
    return world.node.channel_state(customer.channel).last_cum_to - before


class TestCollect:
    async def test_collects_what_receipts_cover_and_never_again(self, world: World) -> None:
        customer = Customer()
        cost = await serve(world, customer) + await serve(world, customer)
        outcome = await world.node.settlement.settle_now()
        assert (outcome.commits, outcome.paid) == ((1,), cost)
        assert (await world.node.settlement.settle_now()).paid == 0
        more = await serve(world, customer)
        assert (await world.node.settlement.settle_now()).paid == more
        assert sum(world.collect.paid.values()) == cost + more
        await world.close()

    async def test_collects_no_more_than_vouched_and_shows_the_straddling_receipt_twice(self, world: World) -> None:
        customer = Customer()
        cost = await serve(world, customer, cumulative=100)
        assert (await world.node.settlement.settle_now()).paid == 100
        voucher, signature = customer.voucher(cost)
        channel = world.node.book.get(customer.channel)
        channel.accept(voucher, signature)
        assert (await world.node.settlement.settle_now()).paid == cost - 100
        first, second = (
            world.node.ledger.commits.leaves(m.collected.commit.receipts_root) for m in world.collect.mined
        )
        assert first == second
        assert len(first) == 1
        await world.close()

    async def test_receipts_without_a_fee_are_no_leaves(self, world: World) -> None:
        customer = Customer()
        world.engine.fails_after = 0
        assert await serve(world, customer) == 0
        assert plan_collect(world.node.book.all(), world.node.ledger, START).items == ()
        world.engine.fails_after = None
        await serve(world, customer, n=2)
        plan = plan_collect(world.node.book.all(), world.node.ledger, START)
        assert len(plan.receipts) == 2
        assert all(record.receipt.fee > 0 for record in plan.receipts)
        await world.close()

    async def test_a_receipt_on_its_way_to_disk_waits(self, world: World) -> None:
        customer = Customer()
        cost = await serve(world, customer)
        channel = world.node.book.get(customer.channel)
        channel.last_cum += 10
        assert (await world.node.settlement.settle_now()).paid == cost
        assert (await world.node.settlement.settle_now()).paid == 0
        await world.close()

    async def test_dry_funds_end_the_round(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, FakeCollect(funds=50))
        cost = await serve(world, Customer())
        assert (await world.node.settlement.settle_now()).paid == 50
        world.collect.funds = 10**9
        assert (await world.node.settlement.settle_now()).paid == cost - 50
        await world.close()

    async def test_channels_that_cannot_pay_do_not_keep_the_others_waiting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("retally_node.settlement.MAX_ITEMS", 2)
        world = await open_world(tmp_path, EmptyAccounts({1, 2, 3}))
        costs = [await serve(world, Customer(lane=lane)) for lane in range(1, 7)]
        outcome = await world.node.settlement.settle_now()
        assert outcome.paid == sum(costs[3:])
        assert (await world.node.settlement.settle_now()).paid == 0
        await world.close()

    async def test_a_commit_that_a_reorganisation_took_back_leaves_no_gap(self, world: World) -> None:
        customer = Customer()
        cost = await serve(world, customer)
        await world.node.settlement.settle_now()
        world.collect.paid.clear()
        cost += await serve(world, customer)
        await world.node.settlement.settle_now()
        root = world.collect.mined[-1].collected.commit.receipts_root
        assert len(world.node.ledger.commits.leaves(root)) == 2
        assert world.collect.paid[customer.channel.key] == cost
        await world.close()

    async def test_books_follow_the_chain_after_a_restart(self, world: World, tmp_path: Path) -> None:
        customer = Customer()
        cost = await serve(world, customer)
        plan = plan_collect(world.node.book.all(), world.node.ledger, START)
        await world.collect.collect(plan.items, keccak(b"root"))
        await world.close()
        again = await open_world(tmp_path, world.collect)
        await again.node.settlement.reconcile()
        assert again.node.book.get(customer.channel).collected == cost
        assert (await again.node.settlement.settle_now()).paid == 0
        await again.close()


class TestWhen:
    async def test_settles_at_the_interval_of_chain_time(self, world: World) -> None:
        await serve(world, Customer())
        await world.node.settlement.step()
        assert world.collect.mined == []
        world.clock.time += 86_400
        await world.node.settlement.step()
        assert len(world.collect.mined) == 1
        await world.close()

    async def test_settles_at_once_when_a_payer_thaws(self, world: World) -> None:
        await serve(world, Customer())
        await world.node.settlement.step()
        standing = world.payers.standing_now
        world.payers.standing_now = replace(standing, thawing=standing.balance)
        world.clock.time += 60
        await world.node.settlement.step()
        assert len(world.collect.mined) == 1
        await world.close()


class TestAnswers:
    async def signed(self, world: World, point: int, key: SigningKey = VERIFIER) -> SignedAnswerRequest:
        channel = Customer().channel.key
        request = AnswerRequest(1, channel, point, VERIFIER.address, START + 100)
        return SignedAnswerRequest(request, key.sign(request.digest(world.node.domain)))

    async def committed(self, world: World) -> int:
        """Serve enough for a drawn point and return it."""
        for _ in range(6):
            await serve(world, Customer())
        await world.node.settlement.settle_now()
        world.audits.verifiers.add(VERIFIER.address)
        world.audits.seeds[1] = keccak(b"seed")
        commit = world.collect.mined[0].collected
        drawn = drawn_points(keccak(b"seed"), commit.ranges, commit.commit.node, commit.commit.step)
        assert drawn
        return drawn[0].point

    async def test_shows_the_receipt_under_the_root(self, world: World) -> None:
        point = await self.committed(world)
        bundle = await world.node.auditor.answer(await self.signed(world, point))
        assert bundle.receipt.cum_from <= point < bundle.receipt.cum_to
        data = ReceiptLeaf(bundle.receipt, bundle.signature).data(world.node.domain)
        root = world.collect.mined[0].collected.commit.receipts_root
        count = bundle.leaf_count
        assert verify(root, leaf(data), bundle.index, count, count, bundle.proof)
        assert bundle.request.digest(world.node.domain) == bundle.receipt.job_id
        assert len(bundle.output_ids) == bundle.receipt.output_tokens
        await world.close()

    @pytest.mark.parametrize(
        ("case", "code"),
        [
            ("stranger", "not_a_verifier"),
            ("forged", "invalid_signature"),
            ("not drawn", "point_not_drawn"),
            ("no seed", "seed_not_fixed"),
            ("late", "deadline_passed"),
        ],
    )
    async def test_shows_nothing_to_others(self, world: World, case: str, code: str) -> None:
        point = await self.committed(world)
        signed = await self.signed(world, point + (case == "not drawn"))
        if case == "stranger":
            world.audits.verifiers.clear()
        if case == "forged":
            signed = await self.signed(world, point, SigningKey(keccak(b"x")))
        if case == "no seed":
            world.audits.seeds.clear()
        world.clock.time += 1000 * (case == "late")
        with pytest.raises(RetallyError) as caught:
            await world.node.auditor.answer(signed)
        assert caught.value.code == code
        await world.close()
