"""What the node's use cases need from the outside, as small interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from retally.protocol.encoding import Address


class Clock(Protocol):
    """Chain time (R-5)."""

    def now(self) -> int:
        """Seconds."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the Escrow says about a payer, its signer and what it reserved for this node."""

    balance: int
    thawing: int
    reserved: int
    cap_left: int | None
    expiry: int | None

    @property
    def funds(self) -> int:
        """What can still be collected; thawing money may be gone tomorrow."""
        return max(0, self.balance - self.thawing) + self.reserved


class Payers(Protocol):
    """The Escrow's view of payers, at most a few seconds old."""

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """How a payer and its signer stand now."""
