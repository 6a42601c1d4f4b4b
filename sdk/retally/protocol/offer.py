"""A node's signed prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from retally.protocol.eip712 import TypedMessage
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.pricing import Prices


@dataclass(frozen=True, slots=True)
class Offer(TypedMessage):
    """Prices per million tokens at which a node serves one model until `valid_until`."""

    TYPE: ClassVar[str] = (
        "Offer(address node,bytes32 modelId,bytes32 profileId,uint64 priceIn,uint64 priceCached,uint64 priceOut,"
        "uint32 maxContext,uint40 validUntil)"
    )

    node: Address
    model_id: Bytes32
    profile_id: Bytes32
    price_in: int
    price_cached: int
    price_out: int
    max_context: int
    valid_until: int

    @property
    def prices(self) -> Prices:
        """The three prices."""
        return Prices(self.price_in, self.price_cached, self.price_out)
