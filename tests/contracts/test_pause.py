"""A guardian keeps new money and new cases out for a while, and can keep nothing in."""

from __future__ import annotations

import pytest

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from tests.contracts.world import DAY, DOLLAR, FUNDS, OPERATOR, World

ZERO = "0x" + "00" * 20
LONGEST = 14 * DAY
EVERY = 90 * DAY


@pytest.fixture
def guardian(world: World) -> str:
    """Who may pause; the deploying key on this chain."""
    return str(world.staking.functions.guardian().call())


def pause(world: World, guardian: str, seconds: int) -> int:
    """Pause Staking; returns the end."""
    until = world.now + seconds
    world.send(guardian, world.staking.functions.pause(until))
    return until


def refund(payer: SigningKey, fee: int) -> tuple[object, ...]:
    """A slash that costs nothing but a receipt's fee."""
    return (0, ZERO, 0, [], 0, [keccak(b"receipt")], [payer.address], [fee])


class TestPause:
    def test_keeps_stake_out_and_ends_by_itself(self, world: World, guardian: str) -> None:
        party = world.party()
        until = pause(world, guardian, 5 * DAY)
        assert world.staking.functions.isPaused().call()
        assert world.staking.functions.pausedUntil().call() == until
        with world.reverts("PauseInForce"):
            world.send(party, world.staking.functions.stake(OPERATOR, 1))
        with world.reverts("PauseInForce"):
            world.send(party, world.staking.functions.stakeFor(party.address, OPERATOR, 1))
        world.jump(5 * DAY)
        assert not world.staking.functions.isPaused().call()
        world.send(party, world.staking.functions.stake(OPERATOR, 1))

    def test_is_14_days_of_any_90_at_most(self, world: World, guardian: str) -> None:
        start = world.now
        with world.reverts("PauseTooLong"):
            pause(world, guardian, LONGEST + 60)
        pause(world, guardian, LONGEST - 60)
        world.jump(LONGEST)
        assert world.staking.functions.latestPauseEnd().call() <= start + LONGEST + 60
        with world.reverts("PauseTooLong"):
            pause(world, guardian, 60)
        world.jump(EVERY - LONGEST)
        pause(world, guardian, LONGEST - 60)

    def test_may_be_moved_within_its_stretch(self, world: World, guardian: str) -> None:
        pause(world, guardian, 10 * DAY)
        pause(world, guardian, DAY)
        world.jump(2 * DAY)
        assert not world.staking.functions.isPaused().call()
        pause(world, guardian, 11 * DAY)
        with world.reverts("PauseTooLong"):
            pause(world, guardian, 13 * DAY)

    def test_ends_when_guardian_or_owner_say_so(self, world: World, guardian: str) -> None:
        party = world.party()
        for who in (guardian, world.at["Timelock"]):
            world.rpc("anvil_setBalance", who, hex(10**20))
            pause(world, guardian, DAY)
            world.send(who, world.staking.functions.resume())
            world.send(party, world.staking.functions.stake(OPERATOR, 1))
        with world.reverts("PauseNotGuardian", party.address.lower(), guardian.lower()):
            world.send(party, world.staking.functions.resume())

    def test_resuming_does_not_move_an_end_that_has_passed(self, world: World, guardian: str) -> None:
        until = pause(world, guardian, DAY)
        world.jump(2 * DAY)
        world.send(guardian, world.staking.functions.resume())
        assert world.staking.functions.pausedUntil().call() == until

    def test_reverts_when_it_would_end_in_the_past(self, world: World, guardian: str) -> None:
        with world.reverts("PauseEndsInPast"):
            world.send(guardian, world.staking.functions.pause(world.now))


class TestGuardian:
    def test_is_replaced_by_the_owner_alone(self, world: World, guardian: str) -> None:
        new = SigningKey.generate()
        timelock = world.at["Timelock"]
        for who in (timelock, new.address):
            world.rpc("anvil_setBalance", who, hex(10**20))
        with world.reverts("OwnableUnauthorizedAccount"):
            world.send(guardian, world.staking.functions.setGuardian(new.address))
        pause(world, guardian, 10 * DAY)
        world.send(timelock, world.staking.functions.setGuardian(new.address))
        with world.reverts("PauseNotGuardian", guardian.lower(), new.address.lower()):
            pause(world, guardian, DAY)
        world.jump(DAY)
        # Another guardian has no more time than the one before it had left.
        with world.reverts("PauseTooLong"):
            pause(world, new.address, LONGEST)
        pause(world, new.address, 11 * DAY)

    def test_may_be_nobody(self, world: World, guardian: str) -> None:
        world.rpc("anvil_setBalance", world.at["Timelock"], hex(10**20))
        world.send(world.at["Timelock"], world.staking.functions.setGuardian(ZERO))
        with world.reverts("PauseNotGuardian"):
            pause(world, guardian, DAY)


def pause_all(world: World, days: int) -> None:
    """Pause whatever can be paused."""
    for contract in (world.staking, world.escrow):
        guardian = contract.functions.guardian().call()
        world.send(guardian, contract.functions.pause(world.now + days * DAY))


class TestStory:
    def test_a_paused_system_lets_everyone_out(self, world: World) -> None:
        owner, payer, friend = world.operator(1_000 * DOLLAR), world.payer(900 * DOLLAR), world.party()
        node = world.node(owner)
        signer = world.signer(payer)
        # Of 400 collected 200 are within the exposure cap: the rest is held.
        world.collect(node, world.item(payer, node, 400 * DOLLAR))
        held = world.escrow.functions.heldOf(owner.address).call()
        assert held > 0
        world.send(world.slasher, world.staking.functions.slash(owner.address, OPERATOR, refund(friend, 30 * DOLLAR)))
        world.send(owner, world.staking.functions.thaw(OPERATOR, 970 * DOLLAR))

        world.jump(10 * DAY)
        pause_all(world, 13)
        for call in (
            world.staking.functions.stake(OPERATOR, 1),
            world.escrow.functions.deposit(payer.address, 1),
        ):
            with world.reverts("PauseInForce"):
                world.send(payer, call)

        # What is owed is still collected, and a session still ends.
        world.send(owner, world.escrow.functions.withdrawCredit())
        assert world.collect(node, world.item(payer, node, 500 * DOLLAR)).paid == 100 * DOLLAR
        world.send(node, world.reserve_call(payer, node, 50 * DOLLAR))
        world.send(payer, world.escrow.functions.revokeSigner(signer.address))
        world.send(payer, world.escrow.functions.releaseReservation(ZERO, node.address))
        world.send(payer, world.escrow.functions.thaw(350 * DOLLAR))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdraw())
        world.send(payer, world.escrow.functions.withdrawReservation(ZERO, node.address))
        world.send(payer, world.escrow.functions.thaw(50 * DOLLAR))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdraw())
        assert world.balance(payer) == FUNDS - 500 * DOLLAR

        world.jump(5 * DAY + 60)
        assert world.staking.functions.isPaused().call()
        assert world.escrow.functions.isPaused().call()
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        world.send(friend, world.staking.functions.withdrawCredit())
        assert world.balance(friend) == FUNDS + 30 * DOLLAR
        world.send(friend, world.escrow.functions.releaseHeld(owner.address))
        world.send(friend, world.escrow.functions.withdrawCreditOf(owner.address))
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 0
        assert world.balance(world.staking.address) == 0
        world.jump(10 * DAY)
        if world.escrow.functions.heldOf(owner.address).call():
            world.send(friend, world.escrow.functions.releaseHeld(owner.address))
            world.send(friend, world.escrow.functions.withdrawCreditOf(owner.address))
        assert world.balance(world.escrow.address) == world.escrow.functions.auditPool().call()

    def test_held_credit_is_slashed_though_no_stake_may_come_in(self, world: World) -> None:
        owner, payer = world.operator(1_000 * DOLLAR), world.payer(900 * DOLLAR)
        node = world.node(owner)
        world.collect(node, world.item(payer, node, 800 * DOLLAR))
        pause_all(world, 13)
        held = world.escrow.functions.heldOf(owner.address).call()
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, held))
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 1_000 * DOLLAR + held
        what = refund(payer, 1_000 * DOLLAR + held)
        world.send(world.slasher, world.staking.functions.slash(owner.address, OPERATOR, what))
        assert world.staking.functions.credit(payer.address).call() == 1_000 * DOLLAR + held
