"""Payers' deposits: in by anybody, out by the payer after the thaw."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account

from retally.protocol.eip712 import SigningKey
from tests.contracts.world import DAY, DOLLAR, FUNDS, World

ZERO = "0x" + "00" * 20


class TestDeposit:
    def test_credits_the_payer_whoever_pays(self, world: World) -> None:
        friend, payer = world.party(), world.party()
        receipt = world.send(friend, world.escrow.functions.deposit(payer.address, 5 * DOLLAR))
        assert world.account(payer) == (5 * DOLLAR, 0, 0, 0)
        assert world.balance(friend) == FUNDS - 5 * DOLLAR
        assert world.events(world.escrow, "Deposited", receipt) == [
            {"payer": payer.address, "from": friend.address, "amount": 5 * DOLLAR}
        ]

    def test_reverts_when_nothing_or_for_nobody(self, world: World) -> None:
        payer = world.party()
        with world.reverts("EscrowZeroAmount"):
            world.send(payer, world.escrow.functions.deposit(payer.address, 0))
        with world.reverts("EscrowZeroAddress"):
            world.send(payer, world.escrow.functions.deposit(ZERO, 1))


class TestDepositWithPermit:
    def permit(self, world: World, payer: SigningKey, amount: int) -> tuple[int, int, bytes, bytes]:
        message = {
            "owner": payer.address,
            "spender": world.escrow.address,
            "value": amount,
            "nonce": world.asset.functions.nonces(payer.address).call(),
            "deadline": world.now + 3600,
        }
        words = {"address": ("owner", "spender"), "uint256": ("value", "nonce", "deadline")}
        types = {"Permit": [{"name": name, "type": kind} for kind, names in words.items() for name in names]}
        domain: dict[str, Any] = {
            "name": "retally devnet dollar",
            "version": "1",
            "chainId": 31337,
            "verifyingContract": world.asset.address,
        }
        signed = Account.from_key(payer.secret).sign_typed_data(domain, types, message)
        deadline = int(message["deadline"])
        return deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")

    def test_needs_no_approval(self, world: World) -> None:
        payer = world.party()
        world.send(payer, world.asset.functions.approve(world.escrow.address, 0))
        permit = self.permit(world, payer, 7 * DOLLAR)
        world.send(payer, world.escrow.functions.depositWithPermit(payer.address, 7 * DOLLAR, *permit))
        assert world.account(payer)[0] == 7 * DOLLAR

    def test_works_when_somebody_submitted_the_permit_first(self, world: World) -> None:
        payer, rival = world.party(), world.party()
        world.send(payer, world.asset.functions.approve(world.escrow.address, 0))
        permit = self.permit(world, payer, 7 * DOLLAR)
        world.send(rival, world.asset.functions.permit(payer.address, world.escrow.address, 7 * DOLLAR, *permit))
        world.send(payer, world.escrow.functions.depositWithPermit(payer.address, 7 * DOLLAR, *permit))
        assert world.account(payer)[0] == 7 * DOLLAR


class TestThaw:
    def test_restarts_the_wait_for_all_that_thaws(self, world: World) -> None:
        payer = world.payer(10 * DOLLAR)
        world.send(payer, world.escrow.functions.thaw(4 * DOLLAR))
        world.jump(2 * DAY)
        world.send(payer, world.escrow.functions.thaw(1 * DOLLAR))
        balance, thawing, end, _ = world.account(payer)
        assert (balance, thawing) == (10 * DOLLAR, 5 * DOLLAR)
        assert end == world.now + 3 * DAY

    def test_reverts_when_more_than_what_does_not_thaw_yet(self, world: World) -> None:
        payer = world.payer(10)
        with world.reverts("EscrowZeroAmount"):
            world.send(payer, world.escrow.functions.thaw(0))
        world.send(payer, world.escrow.functions.thaw(4))
        with world.reverts("EscrowInsufficientBalance", 6, 7):
            world.send(payer, world.escrow.functions.thaw(7))

    def test_can_be_cancelled(self, world: World) -> None:
        payer = world.payer(10)
        with world.reverts("EscrowNothingThawing", payer.address.lower()):
            world.send(payer, world.escrow.functions.cancelThaw())
        world.send(payer, world.escrow.functions.thaw(4))
        world.send(payer, world.escrow.functions.cancelThaw())
        assert world.account(payer) == (10, 0, 0, 0)


class TestWithdraw:
    def test_pays_the_payer_after_three_days(self, world: World) -> None:
        payer = world.payer(10)
        world.send(payer, world.escrow.functions.thaw(10))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdraw())
        assert world.account(payer) == (0, 0, 0, 0)
        assert world.balance(payer) == FUNDS

    def test_pays_only_what_was_not_collected_meanwhile(self, world: World) -> None:
        payer, owner = world.payer(10), world.operator()
        node = world.node(owner)
        world.send(payer, world.escrow.functions.thaw(10))
        assert world.collect(node, world.item(payer, node, 4)).paid == 4
        assert world.account(payer)[:2] == (6, 6)
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdraw())
        assert world.balance(payer) == FUNDS - 4

    def test_reverts_when_still_thawing(self, world: World) -> None:
        payer = world.payer(10)
        with world.reverts("EscrowNothingThawing"):
            world.send(payer, world.escrow.functions.withdraw())
        world.send(payer, world.escrow.functions.thaw(10))
        world.jump(3 * DAY - 60)
        with world.reverts("EscrowStillThawing"):
            world.send(payer, world.escrow.functions.withdraw())


class TestLiabilities:
    @pytest.mark.parametrize("amount", [2, 10 * DOLLAR])
    def test_equal_the_assets_after_each_step(self, world: World, amount: int) -> None:
        payer, owner = world.payer(100 * DOLLAR), world.operator()
        node = world.node(owner)

        def liabilities() -> int:
            balance, _, _, reserved = world.account(payer)
            functions = world.escrow.functions
            held = functions.heldOf(owner.address).call()
            return balance + reserved + world.credit(owner) + functions.auditPool().call() + held

        assert liabilities() == world.balance(world.escrow.address)
        world.send(node, world.reserve_call(payer, node, amount))
        assert liabilities() == world.balance(world.escrow.address)
        world.collect(node, world.item(payer, node, 2 * amount))
        assert liabilities() == world.balance(world.escrow.address)
        world.send(owner, world.escrow.functions.withdrawCredit())
        assert liabilities() == world.balance(world.escrow.address)
