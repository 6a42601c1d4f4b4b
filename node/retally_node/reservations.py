"""Submit reservations to the Escrow: set aside before they are relied on."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from retally.crash_points import crash_point
from retally.errors import TransactionFailed
from retally.protocol.encoding import Address
from retally.protocol.voucher import Reservation
from retally_node.ledger import Ledger, StoredReservation

log = logging.getLogger(__name__)

#: Before a reservation is sent again that failed without the contract's own reason, as when the key has no gas; twice
#: as long each time, for what failed once mined has cost gas.
RETRY_SECONDS = 60.0
MAX_RETRY_SECONDS = 3600.0
#: Names of failures that are not the contract's word: it was never asked, or what it said is not known.
NOT_REFUSED = frozenset({"Refused", "Reverted", "UnknownError"})

_Set = tuple[Address, Address, int]


class ReserveChain(Protocol):
    """What submitting needs of the chain."""

    async def reserve(self, reservation: Reservation, signature: bytes) -> None:
        """Send the reservation and wait until it is mined."""


class Reservations:
    """A loop over reservations that came along with jobs."""

    def __init__(
        self, ledger: Ledger, chain: ReserveChain, node: Address, *, least: int, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._ledger = ledger
        self._chain = chain
        self._node = node
        self._least = least
        self._retry_seconds = retry_seconds
        #: Until when, and for how long next time.
        self._paused: dict[_Set, tuple[float, float]] = {}

    async def step(self) -> None:
        """Submit the largest new one of each payer, signer and epoch, if it adds enough to what is set aside."""
        for stored in self._ledger.money.largest_new_reservations(self._node):
            # Each costs the node gas: a payer must not make it send one for every unit.
            grown = stored.reservation.cumulative - self._ledger.money.reserved(stored.reservation)
            paused_until, _ = self._paused.get(_set_of(stored.reservation), (0.0, 0.0))
            if grown >= self._least and time.monotonic() >= paused_until:
                await self._submit(stored)

    async def _submit(self, stored: StoredReservation) -> None:
        reservation = stored.reservation
        crash_point("before:send:reserve")
        try:
            await self._chain.reserve(reservation, stored.signature)
            state = "reserved"
        except TransactionFailed as error:
            if error.error_name in NOT_REFUSED:
                log.warning("a reservation of %s was not sent: %s", reservation.payer, error)
                self._pause(_set_of(reservation))
                return
            # Of those it would have replaced, the next largest has its turn.
            state = f"refused: {error.error_name}"
        crash_point("after:send:reserve")
        self._paused.pop(_set_of(reservation), None)
        await self._ledger.money.settle_reservation(reservation, state)

    def _pause(self, key: _Set) -> None:
        _, seconds = self._paused.get(key, (0.0, self._retry_seconds))
        self._paused[key] = time.monotonic() + seconds, min(2 * seconds, MAX_RETRY_SECONDS)


def _set_of(reservation: Reservation) -> _Set:
    return reservation.payer, reservation.signer, reservation.epoch
