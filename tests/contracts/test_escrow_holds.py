"""What an owner may be paid at once, what is held back, and when that leaves; credits."""

from __future__ import annotations

import pytest

from retally.protocol.eip712 import SigningKey
from tests.contracts.world import DAY, DOLLAR, OPERATOR, World

# 20 % of a stake of 1,000 may be paid within the window; a new owner's audit share is 30 %.
CAP = 200 * DOLLAR
HUNDRED_AFTER_SHARE = 70 * DOLLAR


@pytest.fixture
def owner(world: World) -> SigningKey:
    return world.operator(stake=1_000 * DOLLAR)


@pytest.fixture
def node(world: World, owner: SigningKey) -> SigningKey:
    return world.node(owner)


@pytest.fixture
def payer(world: World) -> SigningKey:
    return world.payer(10_000 * DOLLAR)


def held(world: World, owner: SigningKey) -> int:
    """An owner's held credit."""
    return int(world.escrow.functions.heldOf(owner.address).call())


def align(world: World) -> None:
    """Go to the start of a half window, so that days count as the tests say."""
    half = 7 * DAY // 2
    world.jump(half - world.now % half)


class TestExposure:
    def test_holds_what_exceeds_the_cap(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        for hundreds in range(1, 4):
            world.collect(node, world.item(payer, node, hundreds * 100 * DOLLAR))
        assert world.credit(owner) == CAP
        assert held(world, owner) == 3 * HUNDRED_AFTER_SHARE - CAP
        assert world.escrow.functions.exposure(owner.address).call() == CAP
        assert world.escrow.functions.freeExposure(owner.address).call() == 0

    def test_holds_everything_of_an_owner_without_free_stake(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 1_000 * DOLLAR))
        done = world.collect(node, world.item(payer, node, 100))
        assert (done.commit["held"], world.credit(owner)) == (70, 0)

    def test_frees_after_the_window(self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey) -> None:
        align(world)
        world.collect(node, world.item(payer, node, 100 * DOLLAR))
        world.jump(7 * DAY - 60)
        assert world.escrow.functions.exposure(owner.address).call() == HUNDRED_AFTER_SHARE
        world.jump(7 * DAY // 2 + 60)
        assert world.escrow.functions.freeExposure(owner.address).call() == CAP

    @pytest.mark.parametrize("halves", [0, 1, 2, 3, 5])
    def test_counts_three_half_windows(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey, halves: int
    ) -> None:
        align(world)
        world.collect(node, world.item(payer, node, 100))
        world.jump(halves * 7 * DAY // 2)
        world.collect(node, world.item(payer, node, 300))
        assert world.escrow.functions.exposure(owner.address).call() == (210 if halves < 3 else 140)

    def test_what_is_held_comes_before_new_money(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        align(world)
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        assert held(world, owner) == 150 * DOLLAR
        world.jump(11 * DAY)
        assert world.escrow.functions.exposure(owner.address).call() == 0
        assert world.escrow.functions.freeExposure(owner.address).call() == CAP - 150 * DOLLAR
        done = world.collect(node, world.item(payer, node, 600 * DOLLAR))
        assert done.commit["held"] == HUNDRED_AFTER_SHARE - 50 * DOLLAR
        assert world.escrow.functions.freeExposure(owner.address).call() == 0


class TestHeldCreditAlwaysGetsOut:
    def test_of_an_owner_that_left_in_a_pause_with_more_entries_than_one_call_takes(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        # As long as a case is open nothing leaves, and a day's money is an entry.
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 0))
        for cents in range(1, 35):
            assert world.collect(node, world.item(payer, node, cents * 10)).commit["held"] in (7, 9)
            world.jump(DAY)
        everything = held(world, owner)
        world.send(world.slasher, world.staking.functions.unlock(owner.address, OPERATOR, 0))
        world.jump(21 * DAY)
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 0
        world.send(world.escrow.functions.guardian().call(), world.escrow.functions.pause(world.now + 10 * DAY))
        stranger = world.party()
        for left in (2 * 9, 0):
            world.send(stranger, world.escrow.functions.releaseHeld(owner.address))
            assert held(world, owner) == left
        before = world.balance(owner)
        world.send(stranger, world.escrow.functions.withdrawCreditOf(owner.address))
        assert world.balance(owner) == before + everything

    def test_new_money_delays_no_older(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        for day in range(1, 21):
            world.jump(DAY)
            world.collect(node, world.item(payer, node, 500 * DOLLAR + 10 * day))
        assert world.credit(owner) == CAP
        world.jump(DAY)
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert world.credit(owner) == CAP + 150 * DOLLAR
        assert held(world, owner) == 20 * 7

    def test_money_of_a_day_leaves_with_its_first(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.collect(node, world.item(payer, node, 10))
        first = world.now
        world.jump(DAY - 60)
        world.collect(node, world.item(payer, node, 20))
        world.jump(60)
        world.collect(node, world.item(payer, node, 30))
        world.jump(first + 21 * DAY - 60 - world.now)
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert world.credit(owner) == 0
        world.jump(60)
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert (world.credit(owner), held(world, owner)) == (14, 7)

    def test_a_case_that_ends_lets_it_go(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        lock, unlock = world.staking.functions.lock, world.staking.functions.unlock
        world.send(world.slasher, lock(owner.address, OPERATOR, 1_000 * DOLLAR))
        world.jump(40 * DAY)
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert held(world, owner) == 150 * DOLLAR
        world.send(world.slasher, unlock(owner.address, OPERATOR, 1_000 * DOLLAR))
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert (world.credit(owner), held(world, owner)) == (CAP + 150 * DOLLAR, 0)

    def test_of_a_juror_no_duty_keeps_it_in(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        functions, duty = world.staking.functions, 20 * DOLLAR
        world.send(world.slasher, functions.lockDuty(owner.address, OPERATOR, duty))
        assert functions.lockedOf(owner.address, OPERATOR).call() == duty
        assert functions.stakeOf(owner.address, OPERATOR).call()[3] == 0
        world.send(owner, functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.jump(21 * DAY)
        world.send(payer, world.escrow.functions.releaseHeld(owner.address))
        assert held(world, owner) == 0
        world.send(owner, functions.withdraw(OPERATOR))
        assert functions.slashable(owner.address, OPERATOR).call() == duty
        world.send(world.slasher, functions.unlockDuty(owner.address, OPERATOR, duty))
        world.send(owner, functions.withdraw(OPERATOR))
        with world.reverts("StakingNotLocked", 0, 1):
            world.send(world.slasher, functions.unlockDuty(owner.address, OPERATOR, 1))
        for call in (functions.lockDuty, functions.unlockDuty):
            with world.reverts("StakingNotSlasher"):
                world.send(owner, call(owner.address, OPERATOR, 0))


class TestReleaseHeld:
    def test_reverts_when_nothing_is_held(self, world: World, owner: SigningKey) -> None:
        with world.reverts("EscrowNothingHeld"):
            world.send(owner, world.escrow.functions.releaseHeld(owner.address))

    def test_releases_first_in_first_out_as_the_window_frees(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        align(world)
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        assert (world.credit(owner), held(world, owner)) == (CAP, 150 * DOLLAR)
        stranger = world.party()
        world.send(stranger, world.escrow.functions.releaseHeld(owner.address))
        assert held(world, owner) == 150 * DOLLAR
        world.jump(11 * DAY)
        world.send(stranger, world.escrow.functions.releaseHeld(owner.address))
        assert (world.credit(owner), held(world, owner)) == (350 * DOLLAR, 0)
        assert world.escrow.functions.exposure(owner.address).call() == 150 * DOLLAR

    def test_new_money_waits_behind_what_is_held(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        align(world)
        world.collect(node, world.item(payer, node, 1_000 * DOLLAR))
        assert held(world, owner) == 500 * DOLLAR
        world.jump(11 * DAY)
        done = world.collect(node, world.item(payer, node, 1_100 * DOLLAR))
        assert done.commit["held"] == 70 * DOLLAR
        assert (world.credit(owner), held(world, owner)) == (2 * CAP, 370 * DOLLAR)

    def test_releases_all_after_21_days_without_a_case(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.collect(node, world.item(payer, node, 5_000 * DOLLAR))
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 1_000 * DOLLAR))
        world.jump(21 * DAY)
        world.send(owner, world.escrow.functions.releaseHeld(owner.address))
        assert held(world, owner) == 3_500 * DOLLAR - CAP
        world.send(world.slasher, world.staking.functions.unlock(owner.address, OPERATOR, 1_000 * DOLLAR))
        world.send(owner, world.escrow.functions.releaseHeld(owner.address))
        assert held(world, owner) == 0
        assert world.credit(owner) == 3_500 * DOLLAR


class TestSlashHeld:
    def test_moves_held_credit_into_the_stake(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        for hundreds in (5, 6, 7):
            world.collect(node, world.item(payer, node, hundreds * 100 * DOLLAR))
        before = held(world, owner)
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, 200 * DOLLAR))
        assert held(world, owner) == before - 200 * DOLLAR
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 1_200 * DOLLAR
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, 10_000 * DOLLAR))
        assert held(world, owner) == 0
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, 1))
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 1_000 * DOLLAR + before

    def test_is_cheap_however_many_tiny_collects_were_held(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        """Locks that exceed the stake keep everything in; ten collects a day for 21 days come before real money."""
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 1_000 * DOLLAR))
        start = world.now
        for count in range(1, 211):
            world.jump(start + DAY * count // 10 - world.now)
            world.collect(node, world.item(payer, node, 10 * count))
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        everything = held(world, owner)
        done = world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, everything))
        print(f"slashing 211 held collects: {done['gasUsed']} gas")
        # 21 days are 22 entries at most, however many collects.
        assert (held(world, owner), done["gasUsed"] < 250_000) == (0, True)
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 1_000 * DOLLAR + everything

    def test_reverts_when_the_caller_is_no_slasher(self, world: World, owner: SigningKey) -> None:
        with world.reverts("EscrowNotSlasher"):
            world.send(owner, world.escrow.functions.slashHeld(owner.address, 1))


class TestWithdrawCredit:
    def test_pays_the_owner_on_anybodys_call(
        self, world: World, owner: SigningKey, node: SigningKey, payer: SigningKey
    ) -> None:
        world.collect(node, world.item(payer, node, 1_000))
        before = world.balance(owner)
        world.send(world.party(), world.escrow.functions.withdrawCreditOf(owner.address))
        assert world.balance(owner) == before + 700

    def test_reverts_when_there_is_none(self, world: World, owner: SigningKey) -> None:
        with world.reverts("EscrowNothingToWithdraw"):
            world.send(owner, world.escrow.functions.withdrawCredit())


class TestConstruction:
    @pytest.mark.parametrize(
        "delays",
        [
            (0, 7 * DAY, 21 * DAY),
            (7 * DAY, 7 * DAY, 21 * DAY),
            (3 * DAY, 21 * DAY, 21 * DAY),
            (3 * DAY, 7 * DAY, 22 * DAY),
            (3 * DAY, 7 * DAY, 7 * DAY),
        ],
    )
    def test_reverts_when_delays_are_out_of_order(self, world: World, delays: tuple[int, int, int]) -> None:
        parts = [world.at[name] for name in ("Asset", "Timelock", "Timelock", "Staking", "Registry", "Randomness")]
        with world.reverts("EscrowDelaysOutOfOrder"):
            world.create_named("Escrow", *parts, (*delays, 4))
