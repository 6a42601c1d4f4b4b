"""Who may slash: added late enough to leave before, removed at once, and then unable to keep anything in."""

from __future__ import annotations

from tests.contracts.test_staking_slash import order
from tests.contracts.world import DAY, DOLLAR, FUNDS, OPERATOR, World

ZERO = "0x" + "00" * 20
STAKE = 10_000 * DOLLAR


def by_timelock(world: World, name: str, slasher: str) -> None:
    """Let the timelock decide about a slasher."""
    proposer = world.web3.eth.accounts[0]
    salt = world.now.to_bytes(32, "big")
    operation = (world.staking.address, 0, world.staking.encode_abi(name, args=[slasher]), bytes(32), salt)
    delay = world.timelock.functions.getMinDelay().call()
    world.send(proposer, world.timelock.functions.schedule(*operation, delay))
    world.jump(delay)
    world.send(proposer, world.timelock.functions.execute(*operation))


class TestPropose:
    def test_waits_28_days_which_is_longer_than_a_thaw(self, world: World) -> None:
        newcomer, owner = world.party(), world.operator(1_000 * DOLLAR)
        by_timelock(world, "proposeSlasher", newcomer.address)
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        slash = world.staking.functions.slash(owner.address, OPERATOR, order(100))
        world.jump(21 * DAY)
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        assert world.balance(owner) == FUNDS
        world.jump(7 * DAY - 60)
        with world.reverts("StakingNotSlasher"):
            world.send(newcomer, slash)
        world.jump(60)
        world.send(newcomer, slash)
        assert world.balance(owner) == FUNDS

    def test_reverts_when_not_the_timelock_or_known_or_nobody(self, world: World) -> None:
        stranger, timelock = world.party(), world.timelock.address
        world.rpc("anvil_setBalance", timelock, hex(10**20))
        for name in ("proposeSlasher", "removeSlasher"):
            with world.reverts("OwnableUnauthorizedAccount"):
                world.send(stranger, world.staking.functions[name](stranger.address))
        with world.reverts("StakingSlasherKnown"):
            world.send(timelock, world.staking.functions.proposeSlasher(world.slasher))
        with world.reverts("StakingZeroAddress"):
            world.send(timelock, world.staking.functions.proposeSlasher(ZERO))

    def test_the_first_are_the_courts_of_the_deployment(self, world: World) -> None:
        for name in ("Faults", "TreeFaults", "Court", "Audits", "Silence"):
            assert world.staking.functions.isSlasher(world.at[name]).call()
        assert not world.staking.functions.isSlasher(world.at["Escrow"]).call()


class TestRemove:
    def test_ends_its_power_at_once_and_for_ever(self, world: World) -> None:
        owner = world.operator(STAKE)
        by_timelock(world, "removeSlasher", world.slasher)
        assert not world.staking.functions.isSlasher(world.slasher).call()
        assert world.staking.functions.wasSlasher(world.slasher).call()
        world.send(world.slasher, world.staking.functions.slash(owner.address, OPERATOR, order(100)))
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == STAKE
        assert world.escrow.functions.slashHeld(owner.address, 1).call({"from": world.slasher}) == 0
        world.rpc("anvil_setBalance", world.timelock.address, hex(10**20))
        with world.reverts("StakingSlasherKnown"):
            world.send(world.timelock.address, world.staking.functions.proposeSlasher(world.slasher))
        with world.reverts("StakingSlasherUnknown"):
            world.send(world.timelock.address, world.staking.functions.removeSlasher(world.slasher))

    def test_lets_its_open_cases_end_and_lock_nothing_more(self, world: World) -> None:
        owner, functions = world.operator(STAKE), world.staking.functions
        world.send(world.slasher, functions.lock(owner.address, OPERATOR, 40))
        by_timelock(world, "removeSlasher", world.slasher)
        with world.reverts("StakingNotSlasher"):
            world.send(world.slasher, functions.lock(owner.address, OPERATOR, 50))
        assert functions.lockedOf(owner.address, OPERATOR).call() == 40
        for amount in (50, 40, 0):
            world.send(world.slasher, functions.unlock(owner.address, OPERATOR, amount))
        assert functions.lockedOf(owner.address, OPERATOR).call() == 0
        assert functions.stakeOf(owner.address, OPERATOR).call()[3] == 0

    def test_lets_its_jurors_go_and_seats_no_more(self, world: World) -> None:
        juror, functions = world.operator(STAKE), world.staking.functions
        world.send(world.slasher, functions.lockDuty(juror.address, OPERATOR, 40))
        by_timelock(world, "removeSlasher", world.slasher)
        world.send(world.slasher, functions.lockDuty(juror.address, OPERATOR, 50))
        assert functions.lockedOf(juror.address, OPERATOR).call() == 40
        for amount in (30, 50):
            world.send(world.slasher, functions.unlockDuty(juror.address, OPERATOR, amount))
        assert functions.lockedOf(juror.address, OPERATOR).call() == 0

    def test_does_not_stop_the_cases_of_others(self, world: World) -> None:
        owner, functions = world.operator(STAKE), world.staking.functions
        other = world.at["Silence"]
        world.rpc("anvil_setBalance", other, hex(10**20))
        world.send(other, functions.lock(owner.address, OPERATOR, 50))
        with world.reverts("StakingNotLocked", 50, 51):
            world.send(world.slasher, functions.unlock(owner.address, OPERATOR, 51))
        by_timelock(world, "removeSlasher", world.slasher)
        # A jury seated after the removal locked nothing, and its dismissal unlocks all the same.
        world.send(world.slasher, functions.lockDuty(owner.address, OPERATOR, 30))
        world.send(world.slasher, functions.unlockDuty(owner.address, OPERATOR, 30))
        assert functions.lockedOf(owner.address, OPERATOR).call() == 20
        world.send(other, functions.unlock(owner.address, OPERATOR, 50))
        assert functions.lockedOf(owner.address, OPERATOR).call() == 0

    def test_does_not_stop_a_case_that_warns(self, world: World) -> None:
        owner = world.operator(STAKE)
        by_timelock(world, "removeSlasher", world.slasher)
        world.send(world.slasher, world.registry.functions.warn(owner.address))
        assert world.registry.functions.warnedUntil(owner.address).call() == 0

    def test_of_one_that_still_waits_leaves_no_trace(self, world: World) -> None:
        newcomer = world.party()
        by_timelock(world, "proposeSlasher", newcomer.address)
        world.jump(20 * DAY)
        by_timelock(world, "removeSlasher", newcomer.address)
        assert not world.staking.functions.wasSlasher(newcomer.address).call()
        by_timelock(world, "proposeSlasher", newcomer.address)
        assert world.staking.functions.slasherFrom(newcomer.address).call() == world.now + 28 * DAY
        world.jump(10 * DAY)
        with world.reverts("StakingNotSlasher"):
            world.send(newcomer, world.staking.functions.lock(newcomer.address, OPERATOR, 1))

    def test_reverts_when_nobody_knows_it(self, world: World) -> None:
        world.rpc("anvil_setBalance", world.timelock.address, hex(10**20))
        with world.reverts("StakingSlasherUnknown"):
            world.send(world.timelock.address, world.staking.functions.removeSlasher(world.party().address))
