"""The node's signed prices, renewed before they run out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Bytes32
from retally.protocol.offer import Offer
from retally.protocol.pricing import Prices
from retally_node.ledger import Ledger
from retally_node.ports import Clock


@dataclass(frozen=True, slots=True)
class SignedOffer:
    """An offer on the books."""

    offer: Offer
    signature: bytes


class Offers:
    """Makes offers; each is on disk before anybody sees it."""

    def __init__(
        self,
        ledger: Ledger,
        key: SigningKey,
        domain: Domain,
        clock: Clock,
        *,
        model_id: Bytes32,
        profile_id: Bytes32,
        prices: Prices,
        max_context: int,
        lifetime_seconds: int,
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._domain = domain
        self._clock = clock
        self._model_id = model_id
        self._profile_id = profile_id
        self._prices = prices
        self._max_context = max_context
        self._lifetime_seconds = lifetime_seconds
        self._current: SignedOffer | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> SignedOffer:
        """An offer with at least half of its life left."""
        async with self._lock:
            now = self._clock.now()
            if self._current is None or self._current.offer.valid_until - now < self._lifetime_seconds // 2:
                self._current = await self._make(now)
            return self._current

    async def _make(self, now: int) -> SignedOffer:
        offer = Offer(
            node=self._key.address,
            model_id=self._model_id,
            profile_id=self._profile_id,
            price_in=self._prices.price_in,
            price_cached=self._prices.price_cached,
            price_out=self._prices.price_out,
            max_context=self._max_context,
            valid_until=now + self._lifetime_seconds,
        )
        digest = offer.digest(self._domain)
        signature = self._key.sign(digest)
        await self._ledger.money.record_offer(digest, offer, signature)
        return SignedOffer(offer, signature)
