"""Stakes by role: in at once, out after 21 days, and not while a case holds them."""

from __future__ import annotations

import pytest

from tests.contracts.world import DAY, DOLLAR, FUNDS, OPERATOR, ROUTER, VERIFIER, World

ZERO = "0x" + "00" * 20


class TestStake:
    @pytest.mark.parametrize("role", [OPERATOR, ROUTER, VERIFIER])
    def test_bonds_in_one_role_alone(self, world: World, role: int) -> None:
        party = world.party()
        world.send(party, world.staking.functions.stake(role, 1_000 * DOLLAR))
        for other in (OPERATOR, ROUTER, VERIFIER):
            bonded = world.staking.functions.stakeOf(party.address, other).call()[0]
            assert bonded == (1_000 * DOLLAR if other == role else 0)
            assert world.staking.functions.isActive(party.address, other).call() == (other == role)
            listed = other == role == VERIFIER
            assert world.staking.functions.owners(other).call() == ([party.address] if listed else [])

    def test_makes_active_from_the_minimum_on(self, world: World) -> None:
        party = world.party()
        world.send(party, world.staking.functions.stake(OPERATOR, 1_000 * DOLLAR - 1))
        assert not world.staking.functions.isActive(party.address, OPERATOR).call()
        world.send(party, world.staking.functions.stakeFor(party.address, OPERATOR, 1))
        assert world.staking.functions.isActive(party.address, OPERATOR).call()
        assert world.balance(party) == FUNDS - 1_000 * DOLLAR

    def test_without_a_minimum_who_has_none_is_not_active(self, world: World) -> None:
        parameters = tuple(world.staking.functions.parameters().call())
        money = world.asset.address, world.escrow.address
        staking = world.create_named("Staking", *money, world.slasher, world.slasher, (0, 0, 0, *parameters[3:]), [])
        party = world.party()
        world.send(party, world.asset.functions.approve(staking.address, 2))
        active = staking.functions.isActive(party.address, VERIFIER)
        for bonded in (0, 1, 2):
            assert (active.call(), staking.functions.owners(VERIFIER).call()) == (
                (True, [party.address]) if bonded else (False, [])
            )
            if bonded < 2:
                world.send(party, staking.functions.stake(VERIFIER, 1))

    @pytest.mark.parametrize("role", [OPERATOR, ROUTER, VERIFIER])
    def test_nobody_makes_anothers_stake_younger(self, world: World, role: int) -> None:
        """A juror or verifier whom a stranger could give young stake could be kept off any bench."""
        party, stranger = world.party(), world.party()
        world.send(party, world.staking.functions.stake(role, 1_000 * DOLLAR))
        before = world.staking.functions.stakeOf(party.address, role).call()
        world.jump(100 * DAY)
        for amount in (1, 1_000 * DOLLAR):
            with world.reverts("StakingNotOwner", party.address.lower(), stranger.address.lower()):
                world.send(stranger, world.staking.functions.stakeFor(party.address, role, amount))
        assert world.staking.functions.stakeOf(party.address, role).call() == before

    def test_held_credit_makes_no_stake_younger(self, world: World) -> None:
        owner, payer = world.operator(stake=1_000 * DOLLAR), world.payer()
        node = world.node(owner)
        since = world.staking.functions.stakeOf(owner.address, OPERATOR).call()[4]
        world.jump(100 * DAY)
        world.collect(node, world.item(payer, node, 500 * DOLLAR))
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, 150 * DOLLAR))
        after = world.staking.functions.stakeOf(owner.address, OPERATOR).call()
        assert (after[0], after[4]) == (1_150 * DOLLAR, since)

    def test_held_credit_is_new_where_nothing_was_bonded(self, world: World) -> None:
        owner, payer = world.operator(stake=1_000 * DOLLAR), world.payer()
        node = world.node(owner)
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.jump(100 * DAY)
        world.collect(node, world.item(payer, node, 100))
        world.send(world.slasher, world.escrow.functions.slashHeld(owner.address, 70))
        after = world.staking.functions.stakeOf(owner.address, OPERATOR).call()
        assert (after[0], after[4]) == (70, world.now)

    def test_stake_added_late_is_not_old(self, world: World) -> None:
        party = world.party()
        world.send(party, world.staking.functions.stake(OPERATOR, 1 * DOLLAR))
        first = world.now
        world.jump(100 * DAY)
        world.send(party, world.staking.functions.stake(OPERATOR, 999 * DOLLAR))
        since = world.staking.functions.stakeOf(party.address, OPERATOR).call()[4]
        assert since > first + 99 * DAY

    def test_reverts_when_the_role_or_amount_is_none(self, world: World) -> None:
        party = world.party()
        with world.reverts("StakingUnknownRole", 4):
            world.send(party, world.staking.functions.stake(4, 1))
        with world.reverts("StakingZeroAmount"):
            world.send(party, world.staking.functions.stake(OPERATOR, 0))


class TestGas:
    def test_of_an_owner_not_seen_before(self, world: World) -> None:
        world.operator()
        costs = []
        for _ in range(2):
            party = world.party()
            costs.append(world.send(party, world.staking.functions.stake(OPERATOR, 1_000 * DOLLAR))["gasUsed"])
        print(f"stake, first of an owner: {max(costs)} gas")
        assert max(costs) <= 85_000


class TestThaw:
    def test_ends_activity_at_once_and_stays_slashable(self, world: World) -> None:
        owner = world.operator(1_500 * DOLLAR)
        world.send(owner, world.staking.functions.thaw(OPERATOR, 600 * DOLLAR))
        bonded, thawing, end, _, _ = world.staking.functions.stakeOf(owner.address, OPERATOR).call()
        assert (bonded, thawing, end) == (900 * DOLLAR, 600 * DOLLAR, world.now + 21 * DAY)
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 1_500 * DOLLAR
        assert world.staking.functions.freeStake(owner.address, OPERATOR).call() == 900 * DOLLAR

    def test_can_be_cancelled(self, world: World) -> None:
        owner = world.operator(1_500 * DOLLAR)
        with world.reverts("StakingNothingThawing"):
            world.send(owner, world.staking.functions.cancelThaw(OPERATOR))
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_500 * DOLLAR))
        world.send(owner, world.staking.functions.cancelThaw(OPERATOR))
        assert world.staking.functions.stakeOf(owner.address, OPERATOR).call()[:3] == [1_500 * DOLLAR, 0, 0]
        assert world.staking.functions.isActive(owner.address, OPERATOR).call()

    def test_reverts_when_more_than_is_bonded(self, world: World) -> None:
        owner = world.operator(1_000 * DOLLAR)
        with world.reverts("StakingZeroAmount"):
            world.send(owner, world.staking.functions.thaw(OPERATOR, 0))
        with world.reverts("StakingInsufficient", 1_000 * DOLLAR, 1_000 * DOLLAR + 1):
            world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR + 1))


class TestVerifiers:
    def test_are_listed_while_they_are_active(self, world: World) -> None:
        verifier, listed = world.party(), world.staking.functions.owners(VERIFIER)
        minimum = world.staking.functions.minimum(VERIFIER).call()
        world.send(verifier, world.staking.functions.stake(VERIFIER, minimum))
        assert listed.call() == [verifier.address]
        world.send(verifier, world.staking.functions.thaw(VERIFIER, 1))
        assert listed.call() == []
        world.send(verifier, world.staking.functions.cancelThaw(VERIFIER))
        assert listed.call() == [verifier.address]
        what = (1, ZERO, 0, [], 0, [], [], [])
        world.send(world.slasher, world.staking.functions.slash(verifier.address, VERIFIER, what))
        assert listed.call() == []


class TestWithdraw:
    def test_pays_after_21_days(self, world: World) -> None:
        owner = world.operator(1_000 * DOLLAR)
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.jump(21 * DAY)
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        assert world.balance(owner) == FUNDS

    def test_reverts_when_still_thawing(self, world: World) -> None:
        owner = world.operator(1_000 * DOLLAR)
        with world.reverts("StakingNothingThawing"):
            world.send(owner, world.staking.functions.withdraw(OPERATOR))
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.jump(21 * DAY - 60)
        with world.reverts("StakingStillThawing"):
            world.send(owner, world.staking.functions.withdraw(OPERATOR))

    def test_leaves_behind_what_a_case_locks(self, world: World) -> None:
        owner = world.operator(1_000 * DOLLAR)
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 300 * DOLLAR))
        assert world.staking.functions.freeStake(owner.address, OPERATOR).call() == 700 * DOLLAR
        world.send(owner, world.staking.functions.thaw(OPERATOR, 1_000 * DOLLAR))
        world.jump(21 * DAY)
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        assert world.balance(owner) == FUNDS - 300 * DOLLAR
        with world.reverts("StakingLocked", 300 * DOLLAR, 300 * DOLLAR):
            world.send(owner, world.staking.functions.withdraw(OPERATOR))
        world.send(world.slasher, world.staking.functions.unlock(owner.address, OPERATOR, 300 * DOLLAR))
        world.send(owner, world.staking.functions.withdraw(OPERATOR))
        assert world.balance(owner) == FUNDS


class TestLock:
    def test_counts_cases(self, world: World) -> None:
        owner = world.operator()
        for amount in (10, 20):
            world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, amount))
        assert world.staking.functions.stakeOf(owner.address, OPERATOR).call()[3] == 2
        assert world.staking.functions.lockedOf(owner.address, OPERATOR).call() == 30

    def test_reverts_when_more_is_unlocked_than_locked(self, world: World) -> None:
        owner = world.operator()
        with world.reverts("StakingNotLocked", 0, 0):
            world.send(world.slasher, world.staking.functions.unlock(owner.address, OPERATOR, 0))
        world.send(world.slasher, world.staking.functions.lock(owner.address, OPERATOR, 5))
        with world.reverts("StakingNotLocked", 5, 6):
            world.send(world.slasher, world.staking.functions.unlock(owner.address, OPERATOR, 6))

    def test_reverts_when_the_caller_is_no_slasher(self, world: World) -> None:
        owner = world.operator()
        for name in ("lock", "unlock"):
            with world.reverts("StakingNotSlasher"):
                world.send(owner, world.staking.functions[name](owner.address, OPERATOR, 1))


class TestConstruction:
    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("thawPeriod", 28 * DAY, "StakingDelaysOutOfOrder"),
            ("thawPeriod", 0, "StakingDelaysOutOfOrder"),
            ("challengerCapPpm", 300_001, "StakingFractionTooLarge"),
            ("mismatchPpm", 1_000_001, "StakingFractionTooLarge"),
            ("exposurePpm", 500_001, "StakingFractionTooLarge"),
        ],
    )
    def test_reverts_when_parameters_would_let_somebody_run(
        self, world: World, field: str, value: int, error: str
    ) -> None:
        parameters = tuple((world.deployment["parameters"]["Staking"] | {field: value}).values())
        with world.reverts(error):
            world.create_named(
                "Staking", *(world.at[name] for name in ("Asset", "Escrow", "Timelock")), ZERO, parameters, []
            )
