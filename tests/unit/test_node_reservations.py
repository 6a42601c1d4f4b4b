"""Reservations: one transaction for the most that was signed, none for small change, and none lost for want of gas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fakes_node import NODE_KEY, Customer

from retally.errors import TransactionFailed
from retally.protocol.encoding import ZERO_ADDRESS, Address, keccak
from retally.protocol.voucher import Reservation
from retally_node.ledger import Ledger
from retally_node.reservations import Reservations

STEP = 1_000_000
OTHER = Address("0x" + "22" * 20)


@dataclass
class FakeEscrow:
    """Takes reservations, or fails by a name."""

    sent: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    async def reserve(self, reservation: Reservation, signature: bytes) -> None:
        assert signature == keccak(b"%d" % reservation.cumulative)
        self.tried.append(reservation.cumulative)
        if reservation.cumulative in self.failures:
            raise TransactionFailed(self.failures[reservation.cumulative])
        self.sent.append(reservation.cumulative)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


async def record(ledger: Ledger, *amounts: int, payer: Address | None = None, epoch: int = 0) -> None:
    for amount in amounts:
        reservation = Reservation(payer or Customer().payer, ZERO_ADDRESS, NODE_KEY.address, amount, epoch)
        await ledger.money.record_reservation(reservation, keccak(b"%d" % amount))


def loop(ledger: Ledger, chain: FakeEscrow, retry_seconds: float = 60.0) -> Reservations:
    return Reservations(ledger, chain, NODE_KEY.address, least=STEP, retry_seconds=retry_seconds)


class TestSent:
    async def test_the_largest_stands_for_all(self, ledger: Ledger) -> None:
        chain = FakeEscrow()
        await record(ledger, *(n * STEP for n in range(1, 51)))
        for _ in range(3):
            await loop(ledger, chain).step()
        assert chain.tried == [50 * STEP]
        assert ledger.money.largest_new_reservations(NODE_KEY.address) == []
        await record(ledger, 51 * STEP)
        await loop(ledger, chain).step()
        assert chain.sent == [50 * STEP, 51 * STEP]
        ledger.close()

    async def test_small_change_waits_until_there_is_more_of_it(self, ledger: Ledger) -> None:
        chain = FakeEscrow()
        await record(ledger, *range(1, 51), STEP - 1)
        await loop(ledger, chain).step()
        assert chain.tried == []
        await record(ledger, STEP)
        await loop(ledger, chain).step()
        await record(ledger, 2 * STEP - 1)
        await loop(ledger, chain).step()
        assert chain.tried == [STEP]
        ledger.close()

    async def test_each_payer_and_epoch_for_itself(self, ledger: Ledger) -> None:
        chain = FakeEscrow()
        await record(ledger, STEP, 2 * STEP)
        await record(ledger, 3 * STEP, payer=OTHER)
        await record(ledger, 4 * STEP, epoch=1)
        await loop(ledger, chain).step()
        assert sorted(chain.sent) == [2 * STEP, 3 * STEP, 4 * STEP]
        ledger.close()


class TestRefused:
    async def test_by_the_contract_for_good_and_the_next_largest_has_its_turn(self, ledger: Ledger) -> None:
        chain = FakeEscrow(failures={9 * STEP: "EscrowInsufficientBalance"})
        await record(ledger, 2 * STEP, 9 * STEP)
        for _ in range(3):
            await loop(ledger, chain).step()
        assert chain.tried == [9 * STEP, 2 * STEP]
        assert chain.sent == [2 * STEP]
        ledger.close()

    @pytest.mark.parametrize("name", ["Refused", "Reverted", "UnknownError"])
    async def test_without_the_contracts_word_it_is_tried_again_after_a_pause(self, ledger: Ledger, name: str) -> None:
        chain = FakeEscrow(failures={STEP: name})
        await record(ledger, STEP)
        patient, hasty = loop(ledger, chain), loop(ledger, chain, retry_seconds=0)
        for _ in range(3):
            await patient.step()
        assert chain.tried == [STEP]
        await hasty.step()
        chain.failures.clear()
        await hasty.step()
        await hasty.step()
        assert chain.sent == [STEP]
        assert len(chain.tried) == 3
        ledger.close()
