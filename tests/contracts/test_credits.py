"""Credits reach whom they belong to: income, refunds and pay, each pulled from the contract that holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retally.chain.connection import Chain
from retally.chain.credits import credit_of, withdraw_credits
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.cli.money import _pay_out
from retally.errors import InsufficientFunds, TransactionFailed
from retally.protocol.eip712 import SigningKey
from retally_verifier.collect_pay import PayCollector
from tests.contracts.test_staking_slash import order, slash
from tests.contracts.world import DOLLAR, World


@pytest.fixture
async def chain(world: World) -> AsyncIterator[Chain]:
    async with Chain(world.url, Deployment.from_json(world.deployment)) as opened:
        yield opened


def earned(world: World) -> SigningKey:
    """An owner with a credit of 700 in the Escrow."""
    owner = world.operator()
    node = world.node(owner)
    world.collect(node, world.item(world.payer(), node, 1000))
    return owner


class TestCredits:
    async def test_pays_each_credit_once(self, world: World, chain: Chain) -> None:
        owner = earned(world)
        held = await chain.asset.balance_of(owner.address)
        assert await credit_of(chain, owner.address) == 700
        sender = TxSender(chain, owner)
        assert len(await withdraw_credits(chain, sender)) == 1
        assert await chain.asset.balance_of(owner.address) == held + 700
        assert await credit_of(chain, owner.address) == 0
        assert await withdraw_credits(chain, sender) == []

    async def test_pays_the_refund_of_a_slash(self, world: World, chain: Chain) -> None:
        payer = world.payer()
        slash(world, world.operator(), order(1_000, refunds=[("job", payer, 40)]))
        held = await chain.asset.balance_of(payer.address)
        assert await credit_of(chain, payer.address) == 40
        await withdraw_credits(chain, TxSender(chain, payer))
        assert await chain.asset.balance_of(payer.address) == held + 40


class TestPayOut:
    async def test_a_credit_waits_for_no_thaw(self, world: World, chain: Chain) -> None:
        owner = earned(world)
        sender = TxSender(chain, owner)
        await sender.send(chain.asset.approve(chain.escrow.address, 5 * DOLLAR))
        await sender.send(chain.escrow.deposit(owner.address, 5 * DOLLAR))
        await sender.send(chain.escrow.thaw(DOLLAR))
        account = await chain.escrow.account(owner.address)
        await _pay_out(chain, sender, account)
        assert await credit_of(chain, owner.address) == 0
        with pytest.raises(TransactionFailed, match="EscrowStillThawing"):
            await _pay_out(chain, sender, account)

    async def test_pays_nothing_out_of_nothing(self, world: World, chain: Chain) -> None:
        payer = world.payer()
        with pytest.raises(InsufficientFunds):
            await _pay_out(chain, TxSender(chain, payer), await chain.escrow.account(payer.address))


class TestPayCollector:
    async def test_withdraws_once_an_interval(self, world: World, chain: Chain) -> None:
        owner = earned(world)
        sender = TxSender(chain, owner)
        await PayCollector(chain, sender, every_seconds=3600).step()
        assert await credit_of(chain, owner.address) == 700
        await PayCollector(chain, sender, every_seconds=0).step()
        assert await credit_of(chain, owner.address) == 0
