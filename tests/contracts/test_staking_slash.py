"""Slashes: payers on top of the severity, half of it burned before anything else, nothing to gain from oneself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from compile_contracts import Artifact
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from tests.contracts.world import BURNED, DOLLAR, FUNDS, OPERATOR, World

STAKE = 10_000 * DOLLAR
ZERO = "0x" + "00" * 20


def order(
    severity: int,
    *,
    challenger: SigningKey | None = None,
    share: int = 0,
    jurors: Sequence[SigningKey] = (),
    juror_share: int = 0,
    refunds: Sequence[tuple[str, SigningKey, int]] = (),
) -> tuple[Any, ...]:
    """A Slash as Staking takes it."""
    return (
        severity,
        challenger.address if challenger else ZERO,
        share,
        [juror.address for juror in jurors],
        juror_share,
        [keccak(name.encode()) for name, _, _ in refunds],
        [payer.address for _, payer, _ in refunds],
        [amount for _, _, amount in refunds],
    )


def slash(world: World, owner: SigningKey, what: tuple[Any, ...]) -> Mapping[str, Any]:
    """Slash as the Court does; returns the event."""
    receipt = world.send(world.slasher, world.staking.functions.slash(owner.address, OPERATOR, what))
    (event,) = world.events(world.staking, "Slashed", receipt)
    return event


def credit(world: World, party: SigningKey) -> int:
    """Credit in Staking."""
    return int(world.staking.functions.credit(party.address).call())


class TestSlash:
    def test_pays_payers_on_top_of_the_severity(self, world: World) -> None:
        owner, payer = world.operator(STAKE), world.party()
        challenger, juror = world.party(), world.party()
        event = slash(
            world,
            owner,
            order(
                1_000,
                challenger=challenger,
                share=200,
                jurors=[juror],
                juror_share=50,
                refunds=[("a", payer, 300), ("b", payer, 7)],
            ),
        )
        assert (event["severity"], event["refunded"], event["rewarded"], event["burned"]) == (1_000, 307, 250, 750)
        assert (credit(world, payer), credit(world, challenger), credit(world, juror)) == (307, 200, 50)
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == STAKE - 1_307
        assert world.balance(BURNED) == 750

    def test_caps_rewards_so_that_half_is_burned(self, world: World) -> None:
        owner, friend = world.operator(STAKE), world.party()
        what = order(1_001, challenger=friend, share=10**9, jurors=[friend] * 3, juror_share=10**9)
        event = slash(world, owner, what)
        assert credit(world, friend) == 300 + 3 * (200 // 3)
        assert event["burned"] * 2 >= 1_001
        assert event["rewarded"] + event["burned"] == 1_001

    def test_refunds_a_receipt_once_ever(self, world: World) -> None:
        owner, payer = world.operator(STAKE), world.party()
        slash(world, owner, order(10, refunds=[("a", payer, 300), ("a", payer, 300)]))
        event = slash(world, owner, order(10, refunds=[("a", payer, 300), ("b", payer, 5)]))
        assert event["refunded"] == 5
        assert credit(world, payer) == 305
        assert world.staking.functions.isRefunded(keccak(b"a")).call()

    def test_takes_thawing_stake_first(self, world: World) -> None:
        owner = world.operator(STAKE)
        world.send(owner, world.staking.functions.thaw(OPERATOR, 400))
        slash(world, owner, order(500))
        assert world.staking.functions.stakeOf(owner.address, OPERATOR).call()[:2] == [STAKE - 500, 0]

    def test_ends_activity_below_the_minimum(self, world: World) -> None:
        owner = world.operator(1_000 * DOLLAR)
        slash(world, owner, order(1))
        assert not world.staking.functions.isActive(owner.address, OPERATOR).call()

    def test_reverts_when_refunds_do_not_match(self, world: World) -> None:
        owner = world.operator()
        broken = (*order(1, refunds=[("a", owner, 1)])[:6], [], [1])
        with world.reverts("StakingLengthMismatch", 1, 0, 1):
            world.send(world.slasher, world.staking.functions.slash(owner.address, OPERATOR, broken))

    def test_reverts_when_the_caller_is_no_slasher(self, world: World) -> None:
        owner = world.operator()
        with world.reverts("StakingNotSlasher"):
            world.send(owner, world.staking.functions.slash(owner.address, OPERATOR, order(1)))


class TestShortFunds:
    def test_cuts_refunds_and_the_unburned_half_pro_rata(self, world: World) -> None:
        owner, payers = world.operator(1_000), [world.party(), world.party()]
        event = slash(world, owner, order(1_000, refunds=[("a", payers[0], 400), ("b", payers[1], 100)]))
        # 500 burned first; 500 are left for 500 of severity and 500 of refunds.
        assert (event["severity"], event["refunded"], event["burned"]) == (750, 250, 750)
        assert [credit(world, payer) for payer in payers] == [200, 50]
        assert world.staking.functions.slashable(owner.address, OPERATOR).call() == 0

    @pytest.mark.parametrize("stake", [0, 1, 499, 500, 501])
    def test_never_reverts_and_takes_no_more_than_there_is(self, world: World, stake: int) -> None:
        owner, payer = world.party(), world.party()
        if stake:
            world.send(owner, world.staking.functions.stake(OPERATOR, stake))
        event = slash(world, owner, order(1_000, challenger=payer, share=10**9, refunds=[("a", payer, 10)]))
        assert event["refunded"] + event["severity"] == stake
        assert event["burned"] >= min(stake, 500)

    def test_of_refunds_alone_pays_what_there_is(self, world: World) -> None:
        owner, payer = world.operator(100), world.party()
        assert slash(world, owner, order(0, refunds=[("a", payer, 300)]))["refunded"] == 100


class TestRefusedBurn:
    def test_saves_nothing_of_the_stake(
        self, contract_chain_url: str, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        asset = world.create_test(test_contracts["PickyAsset"])
        picky = World(contract_chain_url, asset_address=asset.address)
        picky.asset = asset
        owner, payer = picky.operator(STAKE), picky.party()
        picky.send(payer, asset.functions.refuse(BURNED, True))
        call = picky.staking.functions.slash(owner.address, OPERATOR, order(1_000, refunds=[("a", payer, 300)]))
        receipt = picky.send(picky.slasher, call)
        (event,) = picky.events(picky.staking, "Slashed", receipt)
        assert (event["refunded"], event["burned"]) == (300, 1_000)
        assert [refused["amount"] for refused in picky.events(picky.staking, "BurnRefused", receipt)] == [1_000]
        assert picky.staking.functions.credit(BURNED).call() == 1_000
        picky.send(payer, picky.staking.functions.withdrawCreditOf(payer.address))
        assert picky.balance(picky.staking.address) == STAKE - 300
        picky.send(payer, asset.functions.refuse(BURNED, False))
        picky.send(payer, picky.staking.functions.withdrawCreditOf(BURNED))
        assert picky.balance(BURNED) == 1_000

    def test_of_a_refused_victim_blocks_nobody(
        self, contract_chain_url: str, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        asset = world.create_test(test_contracts["PickyAsset"])
        picky = World(contract_chain_url, asset_address=asset.address)
        picky.asset = asset
        owner, victim, other = picky.operator(STAKE), picky.party(), picky.party()
        picky.send(other, asset.functions.refuse(victim.address, True))
        slash(picky, owner, order(1_000, refunds=[("a", victim, 300), ("b", other, 200)]))
        picky.errors |= world.errors
        picky.send(other, picky.staking.functions.withdrawCredit())
        assert picky.balance(other) == FUNDS + 200
        with picky.reverts("PickyAssetRefuses"):
            picky.send(victim, picky.staking.functions.withdrawCredit())
        picky.send(other, asset.functions.refuse(victim.address, False))
        picky.send(other, picky.staking.functions.withdrawCreditOf(victim.address))
        assert picky.balance(victim) == FUNDS + 300


class TestSelfSlash:
    @pytest.mark.parametrize("fees", [0, 100, 10**6, 10**12])
    def test_a_friends_huge_jobs_save_nothing_of_the_burned_half(self, world: World, fees: int) -> None:
        owner, friend = world.operator(STAKE), world.party()
        severity = STAKE // 2
        what = order(
            severity,
            challenger=friend,
            share=10**15,
            jurors=[friend],
            juror_share=10**15,
            refunds=[("a", friend, fees)],
        )
        event = slash(world, owner, what)
        assert event["burned"] * 2 >= severity
        # Fees that the friend paid before are all that can come back on top.
        assert credit(world, friend) <= fees + severity // 2

    def test_books_balance(self, world: World) -> None:
        owner, friend = world.operator(STAKE), world.party()
        before = world.balance(world.staking.address)
        event = slash(world, owner, order(777, challenger=friend, share=99, refunds=[("a", friend, 12)]))
        assert world.balance(world.staking.address) == before - event["burned"]
        world.send(friend, world.staking.functions.withdrawCredit())
        assert world.balance(friend) == FUNDS + 99 + 12
        with world.reverts("StakingNothingToWithdraw"):
            world.send(friend, world.staking.functions.withdrawCredit())
        assert world.balance(world.staking.address) == STAKE - 777 - 12


class TestSeverities:
    def test_come_from_one_table(self, world: World) -> None:
        owner = world.operator(1_000_001)
        table = world.staking.functions.parameters().call()
        shown = [world.staking.functions.severityPpm(offence).call() for offence in range(6)]
        # mismatch, silence, tiling, overbilling, conflict, duty
        assert shown == [table[6], table[6], table[7], table[8], table[9], table[10]]
        assert world.staking.functions.severityOf(owner.address, OPERATOR, 0).call() == 500_001
        assert world.staking.functions.exposureCap(owner.address).call() == 200_000
