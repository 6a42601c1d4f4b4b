"""Payers as the Escrow sees them: fresh while it answers, from memory for a minute when it does not."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.fakes_node import NODE_KEY, Customer

from retally.chain.escrow import Account, Escrow, ReservationState, Signer
from retally.errors import ChainUnreachable
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.encoding import ZERO_ADDRESS, Address
from retally_node.payers import ChainPayers


class FakeEscrow:
    """The Escrow's views over one payer."""

    def __init__(self) -> None:
        self.is_dead = False
        self.reads = 0
        self.release_end = 0

    async def account(self, payer: Address) -> Account:
        self.reads += 1
        if self.is_dead:
            raise ChainUnreachable("no answer")
        return Account(balance=1_000, thawing=400, thaw_end=0, reserved=70)

    async def signer(self, payer: Address, signer: Address) -> Signer:
        return Signer(cap=500, used=120, expiry=99)

    async def reservation(self, payer: Address, signer: Address, node: Address) -> ReservationState:
        return ReservationState(0, 50 if signer == ZERO_ADDRESS else 20, 0, self.release_end)


def payers(escrow: FakeEscrow, fresh_seconds: float = 0.0) -> ChainPayers:
    return ChainPayers(cast("Escrow", escrow), NODE_KEY.address, fresh_seconds)


class TestStanding:
    async def test_counts_what_can_still_be_collected(self) -> None:
        customer = Customer()
        standing = await payers(FakeEscrow()).standing(customer.payer, customer.key.address)
        assert standing.funds == 1_000 - 400 + 70
        # The signer's own reservation for this node counts as used, and is still ours to collect.
        assert (standing.cap_left, standing.expiry) == (500 - 120 + 20, 99)

    async def test_a_reservation_under_release_secures_nothing(self) -> None:
        escrow, customer = FakeEscrow(), Customer()
        escrow.release_end = 5
        standing = await payers(escrow).standing(customer.payer, customer.key.address)
        assert (standing.reserved, standing.funds, standing.cap_left) == (0, 600, 380)

    async def test_a_payer_that_signs_itself_has_no_cap(self) -> None:
        payer = Customer().payer
        standing = await payers(FakeEscrow()).standing(payer, payer)
        assert (standing.cap_left, standing.expiry) == (None, None)

    async def test_asks_again_only_when_stale(self) -> None:
        escrow, customer = FakeEscrow(), Customer()
        kept = payers(escrow, fresh_seconds=60)
        for _ in range(3):
            await kept.standing(customer.payer, customer.key.address)
        assert escrow.reads == 1

    async def test_answers_from_memory_while_the_chain_is_out_of_reach(self) -> None:
        escrow, customer = FakeEscrow(), Customer()
        kept = payers(escrow)
        before = await kept.standing(customer.payer, customer.key.address)
        escrow.is_dead = True
        assert await kept.standing(customer.payer, customer.key.address) == before
        with pytest.raises(ChainUnreachable):
            await payers(escrow).standing(customer.payer, customer.key.address)


class TestStrangers:
    """Keys are free: what is asked for one is asked once, and kept for few."""

    async def test_who_asks_at_the_same_time_shares_one_look(self) -> None:
        escrow, customer = FakeEscrow(), Customer()
        asked = payers(escrow, fresh_seconds=60)
        first = asyncio.create_task(asked.standing(customer.payer, customer.key.address))
        await asyncio.sleep(0)
        others = [asyncio.create_task(asked.standing(customer.payer, customer.key.address)) for _ in range(9)]
        # Who came first may leave: the others have its answer all the same.
        first.cancel()
        found = await asyncio.gather(*others)
        assert (len(found), escrow.reads) == (9, 1)
        escrow.is_dead = True
        assert await asked.standing(customer.payer, customer.key.address) == found[0]

    async def test_a_look_that_failed_is_made_again(self) -> None:
        escrow, customer = FakeEscrow(), Customer()
        asked = payers(escrow)
        escrow.is_dead = True
        with pytest.raises(ChainUnreachable):
            await asked.standing(customer.payer, customer.key.address)
        escrow.is_dead = False
        assert (await asked.standing(customer.payer, customer.key.address)).funds > 0

    async def test_the_oldest_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("retally_node.payers.MOST_SEEN", 3)
        escrow = FakeEscrow()
        asked = payers(escrow, fresh_seconds=60)
        some = [SigningKey(keccak(b"%d" % number)).address for number in range(5)]
        for payer in some:
            await asked.standing(payer, payer)
        escrow.reads = 0
        for payer in reversed(some):
            await asked.standing(payer, payer)
        assert escrow.reads == 2
