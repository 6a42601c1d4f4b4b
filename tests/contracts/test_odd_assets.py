"""Assets that differ from ERC-20 as some in use do: what they cannot move does not count, and harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from compile_contracts import Artifact
from retally.protocol.eip712 import SigningKey
from tests.contracts.world import DAY, FUNDS, OPERATOR, World

PLAIN, ANSWERS_NOTHING, ANSWERS_FALSE = range(3)
STAKE = 1_000_000_000


@pytest.fixture
def odd(contract_chain_url: str, deployed_world: World, test_contracts: Mapping[str, Artifact]) -> Iterator[World]:
    """The contracts over an asset that can be made odd."""
    snapshot = deployed_world.rpc("evm_snapshot")
    asset = deployed_world.create_test(test_contracts["OddAsset"])
    odd = World(contract_chain_url, asset_address=asset.address)
    odd.asset = asset
    odd.errors |= deployed_world.errors
    yield odd
    deployed_world.rpc("evm_revert", snapshot)


def turn(odd: World, oddity: int) -> None:
    """Make the asset odd."""
    odd.send(odd.slasher, odd.asset.functions.turn(oddity))


def blacklist(odd: World, account: SigningKey, listed: bool = True) -> None:
    """Let the asset refuse an account, or no longer."""
    odd.send(odd.slasher, odd.asset.functions.blacklist(account.address, listed))


def thawed(odd: World, payer: SigningKey, amount: int) -> None:
    """Let a payer's money thaw."""
    odd.send(payer, odd.escrow.functions.thaw(amount))
    odd.jump(3 * DAY)


class TestAnswersNothing:
    def test_is_an_asset_like_any(self, odd: World) -> None:
        turn(odd, ANSWERS_NOTHING)
        payer, owner = odd.payer(100), odd.operator(STAKE)
        node = odd.node(owner)
        assert odd.collect(node, odd.item(payer, node, 60)).paid == 60
        odd.send(owner, odd.escrow.functions.withdrawCredit())
        assert odd.balance(owner) == FUNDS - STAKE + 42
        thawed(odd, payer, 40)
        odd.send(payer, odd.escrow.functions.withdraw())
        assert odd.balance(payer) == FUNDS - 60
        odd.send(owner, odd.staking.functions.thaw(OPERATOR, STAKE))
        odd.jump(21 * DAY)
        odd.send(owner, odd.staking.functions.withdraw(OPERATOR))
        assert odd.balance(owner) == FUNDS + 42


class TestAnswersFalse:
    def test_brings_no_money_in(self, odd: World) -> None:
        party = odd.party()
        turn(odd, ANSWERS_FALSE)
        for call in (
            odd.escrow.functions.deposit(party.address, 10),
            odd.escrow.functions.fundAuditPool(10),
            odd.staking.functions.stake(OPERATOR, STAKE),
        ):
            with odd.reverts("SafeERC20FailedOperation"):
                odd.send(party, call)
        assert odd.account(party) == (0, 0, 0, 0)

    def test_loses_no_money_on_its_way_out(self, odd: World) -> None:
        payer, owner = odd.payer(100), odd.operator(STAKE)
        node = odd.node(owner)
        odd.collect(node, odd.item(payer, node, 50))
        thawed(odd, payer, 50)
        odd.send(owner, odd.staking.functions.thaw(OPERATOR, STAKE))
        odd.jump(21 * DAY)
        ways_out = (
            (payer, odd.escrow.functions.withdraw()),
            (owner, odd.escrow.functions.withdrawCredit()),
            (owner, odd.staking.functions.withdraw(OPERATOR)),
        )
        turn(odd, ANSWERS_FALSE)
        for sender, call in ways_out:
            with odd.reverts("SafeERC20FailedOperation"):
                odd.send(sender, call)
        turn(odd, PLAIN)
        for sender, call in ways_out:
            odd.send(sender, call)
        assert odd.balance(payer) == FUNDS - 50
        assert odd.balance(owner) == FUNDS + 35


class TestBlacklisting:
    def test_a_blacklisted_payer_still_pays_and_waits_alone(self, odd: World) -> None:
        payer, other, owner = odd.payer(100), odd.payer(100), odd.operator(STAKE)
        node = odd.node(owner)
        for each in (payer, other):
            thawed(odd, each, 40)
        blacklist(odd, payer)
        assert odd.collect(node, odd.item(payer, node, 60), odd.item(other, node, 60)).paid == 120
        odd.send(owner, odd.escrow.functions.withdrawCredit())
        with odd.reverts("Blacklisted"):
            odd.send(payer, odd.escrow.functions.withdraw())
        odd.send(other, odd.escrow.functions.withdraw())
        blacklist(odd, payer, False)
        odd.send(payer, odd.escrow.functions.withdraw())
        assert odd.balance(payer) == odd.balance(other) == FUNDS - 60

    def test_a_blacklisted_owner_blocks_no_other(self, odd: World) -> None:
        payer = odd.payer(1_000)
        owners = [odd.operator(STAKE) for _ in range(2)]
        blacklist(odd, owners[0])
        for owner in owners:
            node = odd.node(owner)
            assert odd.collect(node, odd.item(payer, node, 100)).paid == 100
        with odd.reverts("Blacklisted"):
            odd.send(payer, odd.escrow.functions.withdrawCreditOf(owners[0].address))
        odd.send(payer, odd.escrow.functions.withdrawCreditOf(owners[1].address))
        assert (odd.credit(owners[0]), odd.credit(owners[1])) == (70, 0)
        blacklist(odd, owners[0], False)
        odd.send(payer, odd.escrow.functions.withdrawCreditOf(owners[0].address))
        assert odd.balance(owners[0]) == odd.balance(owners[1])

    def test_a_blacklisted_owner_is_slashed_like_any(self, odd: World) -> None:
        owner, payer = odd.operator(STAKE), odd.party()
        blacklist(odd, owner)
        what = (100, "0x" + "00" * 20, 0, [], 0, [b"\1" * 32], [payer.address], [40])
        odd.send(odd.slasher, odd.staking.functions.slash(owner.address, OPERATOR, what))
        odd.send(payer, odd.staking.functions.withdrawCredit())
        assert odd.balance(payer) == FUNDS + 40
        assert odd.staking.functions.slashable(owner.address, OPERATOR).call() == STAKE - 140
