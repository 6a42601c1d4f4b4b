"""Submit reservations to the Escrow: set aside before they are relied on."""

from __future__ import annotations

from typing import Protocol

from retally.crash_points import crash_point
from retally.errors import TransactionFailed
from retally.protocol.encoding import Address
from retally.protocol.voucher import Reservation
from retally_node.ledger import Ledger


class ReserveChain(Protocol):
    """What submitting needs of the chain."""

    async def reserve(self, reservation: Reservation, signature: bytes) -> None:
        """Send the reservation and wait until it is mined."""


class Reservations:
    """A loop over reservations that came along with jobs."""

    def __init__(self, ledger: Ledger, chain: ReserveChain, node: Address) -> None:
        self._ledger = ledger
        self._chain = chain
        self._node = node

    async def step(self) -> None:
        """Submit what is new; what the Escrow refuses is not tried again."""
        for stored in self._ledger.money.new_reservations(self._node):
            crash_point("before:send:reserve")
            try:
                await self._chain.reserve(stored.reservation, stored.signature)
                state = "reserved"
            except TransactionFailed as error:
                state = f"refused: {error.error_name}"
            crash_point("after:send:reserve")
            await self._ledger.money.settle_reservation(stored.reservation, state)
