"""Stories of payers, their signers and the nodes that trusted them: what was promised within the rules is paid."""

from __future__ import annotations

import pytest

from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address
from tests.contracts.world import DAY, DOLLAR, FUNDS, Item, World

NOBODY = "0x" + "00" * 20
BAD_SIGNATURE, UNKNOWN_SIGNER, SIGNER_EXPIRED, NOTHING_DUE = range(4)


def income(world: World, owner: SigningKey) -> int:
    """What an owner has earned before the audit share of a new owner, three tenths."""
    held = int(world.escrow.functions.heldOf(owner.address).call())
    return (world.credit(owner) + held) * 10 // 7


def used(world: World, payer: SigningKey, signer: SigningKey) -> int:
    """What counts against a session signer's cap."""
    return int(world.escrow.functions.signer(payer.address, signer.address).call()[1])


def whole(world: World, payer: SigningKey) -> int:
    """A payer's money in the Escrow, set aside or not."""
    balance, _, _, reserved = world.account(payer)
    return balance + reserved


class TestThawWhileOwing:
    """A payer who thaws while owing still pays."""

    def test_pays_all_that_is_collected_within_the_three_days(self, world: World) -> None:
        payer, owner = world.payer(100 * DOLLAR), world.operator()
        node, signer = world.node(owner), world.signer(payer)
        world.send(node, world.reserve_call(payer, node, 20 * DOLLAR))
        owed = world.item(payer, node, 70 * DOLLAR, signer=signer)
        # It tries every exit at once.
        functions = world.escrow.functions
        for exit_ in (
            functions.thaw(80 * DOLLAR),
            functions.releaseReservation(NOBODY, node.address),
            functions.revokeSigner(signer.address),
        ):
            world.send(payer, exit_)
        world.jump(3 * DAY - 60)
        for call, error in (
            (functions.withdraw(), "EscrowStillThawing"),
            (functions.withdrawReservation(NOBODY, node.address), "EscrowStillReleasing"),
        ):
            with world.reverts(error):
                world.send(payer, call)
        # The last minute: all 70 come, 20 of them from what is being released.
        assert world.collect(node, owed).paid == 70 * DOLLAR
        world.jump(60)
        world.send(payer, functions.withdraw())
        assert world.balance(payer) == FUNDS - 70 * DOLLAR
        assert income(world, owner) == 70 * DOLLAR
        assert world.balance(world.escrow.address) == 70 * DOLLAR
        assert whole(world, payer) == 0

    def test_pays_nothing_to_who_slept_through_them(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node = world.node(owner)
        world.send(payer, world.escrow.functions.thaw(100))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdraw())
        assert world.collect(node, world.item(payer, node, 70)).skipped == [(0, NOTHING_DUE)]
        assert (world.balance(payer), world.credit(owner)) == (FUNDS, 0)

    def test_hides_nothing_in_a_reservation_for_a_friend(self, world: World) -> None:
        """What a friend's node has reserved is out of reach, and what was reserved before it is not."""
        payer, owner, friend = world.payer(100), world.operator(), world.operator()
        node, accomplice = world.node(owner), world.node(friend)
        world.send(node, world.reserve_call(payer, node, 60))
        with world.reverts("EscrowInsufficientBalance", 40, 100):
            world.send(accomplice, world.reserve_call(payer, accomplice, 100))
        world.send(accomplice, world.reserve_call(payer, accomplice, 40))
        assert world.collect(accomplice, world.item(payer, accomplice, 100)).paid == 40
        assert world.collect(node, world.item(payer, node, 60)).paid == 60


class TestTwoSigners:
    """Two signers on one payer never cost a node money that it was promised within the rules."""

    @pytest.fixture
    def owner(self, world: World) -> SigningKey:
        return world.operator()

    @pytest.fixture
    def node(self, world: World, owner: SigningKey) -> SigningKey:
        return world.node(owner)

    @pytest.fixture
    def rival(self, world: World) -> SigningKey:
        return world.node(world.operator())

    @pytest.mark.parametrize("by_payer", [False, True])
    def test_one_cannot_spend_what_was_reserved_for_the_other(
        self, world: World, owner: SigningKey, node: SigningKey, rival: SigningKey, by_payer: bool
    ) -> None:
        payer = world.payer(100)
        one, two = world.signer(payer, cap=80), world.signer(payer, cap=1_000)
        reserve = world.reserve_call(payer, node, 60, signer=one, by=payer if by_payer else one)
        world.send(node, reserve)
        # The other spends all that it can: elsewhere, and at the very same node and lane.
        assert world.collect(rival, world.item(payer, rival, 1_000, signer=two)).paid == 40
        assert world.collect(node, world.item(payer, node, 1_000, signer=two)).skipped == [(0, NOTHING_DUE)]
        assert world.collect(rival, world.item(payer, rival, 1_000)).skipped == [(0, NOTHING_DUE)]
        # Two lanes of one signer share what was set aside for it.
        lanes = [world.item(payer, node, 30, signer=one, lane=lane) for lane in (0, 1)]
        assert world.collect(node, *lanes).ranges == [(0, 30), (0, 30)]
        assert income(world, owner) == 60
        assert (used(world, payer, one), used(world, payer, two)) == (60, 40)
        assert whole(world, payer) == 0

    @pytest.mark.parametrize("first", [0, 1])
    def test_what_the_payer_reserved_reaches_the_node_whoever_comes_first(
        self, world: World, owner: SigningKey, node: SigningKey, rival: SigningKey, first: int
    ) -> None:
        payer = world.payer(100)
        signers = [world.signer(payer, cap=1_000) for _ in range(2)]
        world.send(node, world.reserve_call(payer, node, 60))
        assert world.collect(rival, world.item(payer, rival, 1_000, signer=signers[first])).paid == 40
        order = [world.item(payer, node, 30, signer=signers[place]) for place in (first, 1 - first)]
        for item in order:
            assert world.collect(node, item).paid == 30
        assert (income(world, owner), whole(world, payer)) == (60, 0)

    def test_ones_cap_is_not_the_others(
        self, world: World, owner: SigningKey, node: SigningKey, rival: SigningKey
    ) -> None:
        payer = world.payer(1_000)
        one, two = world.signer(payer, cap=50), world.signer(payer, cap=50)
        world.send(node, world.reserve_call(payer, node, 30, signer=one))
        # Elsewhere it has 20 of its cap left, however rich the payer is; the other has all of its own.
        assert world.collect(rival, world.item(payer, rival, 500, signer=one)).paid == 20
        assert world.collect(rival, world.item(payer, rival, 500, signer=two)).paid == 50
        assert world.collect(node, world.item(payer, node, 30, signer=one)).paid == 30
        assert income(world, owner) == 30
        assert (used(world, payer, one), used(world, payer, two)) == (50, 50)

    def test_revoking_one_takes_nothing_from_who_serves_it(
        self, world: World, owner: SigningKey, node: SigningKey
    ) -> None:
        payer = world.payer(100)
        one, two = world.signer(payer), world.signer(payer)
        world.send(node, world.reserve_call(payer, node, 60, signer=one))
        functions = world.escrow.functions
        for call in (
            functions.revokeSigner(one.address),
            functions.releaseReservation(one.address, node.address),
            functions.thaw(40),
        ):
            world.send(payer, call)
        # What the other signer reserves meanwhile comes out of the rest.
        world.send(node, world.reserve_call(payer, node, 40, signer=two))
        world.jump(3 * DAY - 60)
        items = [world.item(payer, node, 60, signer=one), world.item(payer, node, 40, signer=two)]
        assert world.collect(node, *items).paid == 100
        assert income(world, owner) == 100

    def test_of_credit_the_pool_is_paid_out_once_in_whatever_order(
        self, world: World, owner: SigningKey, node: SigningKey
    ) -> None:
        """Vouchers without a reservation are credit: who comes late waits, and nobody is paid what is not there."""
        payer, other = world.payer(100), world.payer(100)
        one, two = world.signer(payer), world.signer(payer)
        items = [
            world.item(payer, node, 70, signer=one),
            world.item(payer, node, 70, signer=two),
            world.item(other, node, 10),
            world.item(payer, node, 70, signer=one, lane=1),
            world.item(payer, node, 70, signer=two, lane=1),
        ]
        done = world.collect(node, *items)
        assert done.ranges == [(0, 70), (0, 30), (0, 10)]
        assert done.skipped == [(3, NOTHING_DUE), (4, NOTHING_DUE)]
        assert (whole(world, payer), whole(world, other)) == (0, 90)
        # The promises stand: the next deposit pays them.
        world.send(other, world.escrow.functions.deposit(payer.address, 90 * 2))
        assert world.collect(node, *items).ranges == [(30, 70), (0, 70), (0, 70)]
        assert income(world, owner) == 70 * 4 + 10


class TestReleasedReservation:
    """A released reservation stays released."""

    @pytest.mark.parametrize("session", [False, True])
    @pytest.mark.parametrize("shown", ["before", "during", "at the end"])
    def test_no_old_signature_locks_anything_again(self, world: World, session: bool, shown: str) -> None:
        payer, node = world.payer(100), SigningKey.generate()
        world.rpc("anvil_setBalance", node.address, hex(10**20))
        signer = world.signer(payer) if session else None
        who = signer.address if signer else NOBODY
        old = [world.reserve_call(payer, node, amount, signer=signer) for amount in (30, 80)]
        world.send(node, old[0])
        if shown == "before":
            world.send(node, old[1])
        world.send(payer, world.escrow.functions.releaseReservation(who, node.address))
        end = world.escrow.functions.reservation(payer.address, who, node.address).call()[3]
        assert end == world.now + 3 * DAY
        world.jump(3 * DAY - 60 if shown == "during" else 3 * DAY)
        # Nor does one that was never shown: what is leaving is not locked again.
        with world.reverts("EscrowReservationReleasing", end):
            world.send(node, old[1])
        locked = 80 if shown == "before" else 30
        assert world.escrow.functions.reservation(payer.address, who, node.address).call() == [locked, locked, 0, end]
        world.jump(60)
        world.send(payer, world.escrow.functions.withdrawReservation(who, node.address))
        assert world.account(payer) == (100, 0, 0, 0)
        if signer:
            assert used(world, payer, signer) == 0
        for call in old:
            with world.reverts("EscrowReservationEpoch", 1, 0):
                world.send(node, call)
        assert world.account(payer) == (100, 0, 0, 0)

    def test_one_that_was_signed_and_never_shown_is_ended_in_advance(self, world: World) -> None:
        payer, node = world.payer(100), SigningKey.generate()
        never_shown = world.reserve_call(payer, node, 90)
        world.send(payer, world.escrow.functions.releaseReservation(NOBODY, node.address))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdrawReservation(NOBODY, node.address))
        with world.reverts("EscrowReservationEpoch", 1, 0):
            world.send(payer, never_shown)
        assert world.account(payer) == (100, 0, 0, 0)

    def test_releasing_one_signers_frees_no_others(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node = world.node(owner)
        one, two = world.signer(payer), world.signer(payer)
        for signer in (one, two):
            world.send(node, world.reserve_call(payer, node, 50, signer=signer))
        functions = world.escrow.functions
        world.send(payer, functions.releaseReservation(one.address, node.address))
        world.jump(3 * DAY)
        world.send(payer, functions.withdrawReservation(one.address, node.address))
        with world.reverts("EscrowNotReleased"):
            world.send(payer, functions.withdrawReservation(two.address, node.address))
        assert world.account(payer) == (50, 0, 0, 50)
        assert world.collect(node, world.item(payer, node, 50, signer=two)).paid == 50
        assert world.account(payer) == (50, 0, 0, 0)


class TestReplay:
    def test_a_voucher_of_another_chain_or_escrow_pays_nothing(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node = world.node(owner)
        voucher = world.item(payer, node, 50).voucher
        for domain in (Domain(1, world.domain.escrow), Domain(world.domain.chain_id, Address(node.address))):
            foreign = Item(voucher, payer.sign(voucher.digest(domain)), 50)
            assert world.collect(node, foreign).skipped == [(0, BAD_SIGNATURE)]
        assert world.account(payer)[0] == 100


class TestExposure:
    def test_many_owners_and_tiny_collects_are_paid_no_more_than_one(self, world: World) -> None:
        """A stake divided among owners is paid at once what the whole one is, however finely it collects."""
        payer = world.payer(10_000 * DOLLAR)
        whole_owner, parts = world.operator(4_000 * DOLLAR), [world.operator(1_000 * DOLLAR) for _ in range(4)]
        node = world.node(whole_owner)
        world.collect(node, world.item(payer, node, 1_600 * DOLLAR))
        for owner in parts:
            part = world.node(owner)
            for step in range(1, 9):
                world.collect(part, world.item(payer, part, step * 50 * DOLLAR))
        assert world.credit(whole_owner) == sum(world.credit(owner) for owner in parts) == 800 * DOLLAR
        held = [int(world.escrow.functions.heldOf(owner.address).call()) for owner in (whole_owner, *parts)]
        assert held[0] == sum(held[1:]) == 320 * DOLLAR
