"""Assets that keep a fee or call back while they move: books stay right, nothing is entered twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from web3.contract import Contract

from compile_contracts import Artifact
from retally.protocol.encoding import keccak
from tests.contracts.world import BURNED, DAY, DOLLAR, FUNDS, OPERATOR, World

REENTRANT = keccak(b"ReentrancyGuardReentrantCall()")[:4]


@pytest.fixture
def hostile(contract_chain_url: str, deployed_world: World, test_contracts: Mapping[str, Artifact]) -> Iterator[World]:
    """The contracts over the hostile asset."""
    snapshot = deployed_world.rpc("evm_snapshot")
    asset = deployed_world.create_test(test_contracts["HostileAsset"])
    hostile = World(contract_chain_url, asset_address=asset.address)
    hostile.asset = asset
    yield hostile
    deployed_world.rpc("evm_revert", snapshot)


class TestFeeOnTransfer:
    def test_reverts_when_less_arrives_than_was_sent(self, hostile: World) -> None:
        party = hostile.party()
        hostile.send(party, hostile.asset.functions.setKeepsFee(True))
        with hostile.reverts("EscrowTransferMismatch", 10, 9):
            hostile.send(party, hostile.escrow.functions.deposit(party.address, 10))
        with hostile.reverts("EscrowTransferMismatch", 10, 9):
            hostile.send(party, hostile.escrow.functions.fundAuditPool(10))
        with hostile.reverts("StakingTransferMismatch", 10, 9):
            hostile.send(party, hostile.staking.functions.stake(OPERATOR, 10))

    def test_leaves_the_books_covered_when_it_starts_later(self, hostile: World) -> None:
        payer, owner = hostile.payer(100), hostile.operator()
        node = hostile.node(owner)
        hostile.send(payer, hostile.asset.functions.setKeepsFee(True))
        hostile.collect(node, hostile.item(payer, node, 50))
        hostile.send(owner, hostile.escrow.functions.withdrawCredit())
        hostile.send(payer, hostile.escrow.functions.thaw(20))
        hostile.jump(3 * DAY)
        hostile.send(payer, hostile.escrow.functions.withdraw())
        owed = hostile.account(payer)[0] + hostile.escrow.functions.auditPool().call()
        assert owed == 30 + 15
        assert hostile.balance(hostile.escrow.address) >= owed


class TestReentrancy:
    def refused(self, hostile: World) -> bool:
        functions = hostile.asset.functions
        return not functions.succeeded().call() and functions.refusal().call() == REENTRANT

    def aim(self, hostile: World, contract: Contract, function: str, *arguments: object) -> None:
        data = contract.encode_abi(function, args=list(arguments))
        hostile.send(hostile.slasher, hostile.asset.functions.setCall(contract.address, data))

    def test_is_refused_while_the_escrow_moves_assets(self, hostile: World) -> None:
        payer, owner = hostile.payer(100), hostile.operator()
        node = hostile.node(owner)
        hostile.collect(node, hostile.item(payer, node, 50))
        functions = hostile.escrow.functions
        self.aim(hostile, hostile.escrow, "withdrawCreditOf", owner.address)
        for call in (functions.deposit(payer.address, 1), functions.fundAuditPool(1)):
            hostile.send(payer, call)
            assert self.refused(hostile)
        hostile.send(payer, functions.thaw(10))
        hostile.jump(3 * DAY)
        hostile.send(payer, functions.withdraw())
        assert self.refused(hostile)
        self.aim(hostile, hostile.escrow, "collect", node.address, hostile.item(payer, node, 60).pack(), b"\1" * 32)
        hostile.send(owner, functions.withdrawCredit())
        assert self.refused(hostile)
        assert functions.channel(payer.address, payer.address, node.address, 0).call() == 50

    def test_is_refused_while_a_stake_moves(self, hostile: World) -> None:
        owner, functions = hostile.operator(), hostile.staking.functions
        self.aim(hostile, hostile.staking, "withdrawCredit")
        hostile.send(owner, functions.stake(OPERATOR, 5))
        assert self.refused(hostile)
        what = (100, owner.address, 30, [], 0, [], [], [])
        hostile.send(hostile.slasher, functions.slash(owner.address, OPERATOR, what))
        assert self.refused(hostile)
        assert hostile.balance(BURNED) == 70
        hostile.send(owner, functions.withdrawCredit())
        assert self.refused(hostile)
        self.aim(hostile, hostile.staking, "withdraw", OPERATOR)
        hostile.send(owner, functions.thaw(OPERATOR, 5))
        hostile.jump(21 * DAY)
        hostile.send(owner, functions.withdraw(OPERATOR))
        assert self.refused(hostile)


class TestLeakyEscrow:
    def test_pays_out_what_nobody_was_debited(self, world: World, test_contracts: Mapping[str, Artifact]) -> None:
        parts = [world.at[name] for name in ("Asset", "Timelock", "Timelock", "Staking", "Registry", "Randomness")]
        leaky = world.create_test(test_contracts["LeakyEscrow"], *parts, (3 * DAY, 7 * DAY, 21 * DAY, 4))
        payer = world.party()
        world.send(payer, world.asset.functions.approve(leaky.address, FUNDS))
        world.send(payer, leaky.functions.deposit(payer.address, 5 * DOLLAR))
        world.send(payer, leaky.functions.leak(payer.address, DOLLAR))
        assert leaky.functions.account(payer.address).call()[0] == 5 * DOLLAR
        assert world.balance(leaky.address) == 4 * DOLLAR
