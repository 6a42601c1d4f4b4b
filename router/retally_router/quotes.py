"""Quotes: the node that a client with its own key will sign for."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from retally.errors import BadRequest
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.encoding import address_bytes, address_from_bytes

QUOTE_SECONDS = 300
_TIME_BYTES, _NODE_BYTES, _SEAL_BYTES = 8, 20, 16
_QUOTE_BYTES = _TIME_BYTES + _NODE_BYTES + _SEAL_BYTES


class Quotes:
    """Quote ids that say themselves which node they name and until when, sealed by the router's key.

    All replicas have that key, so each takes up the others' quotes, and none asks the store. The seal is HMAC-SHA256
    (RFC 2104) cut to 16 bytes, over the time (8 bytes, Unix seconds) and the node's address (20 bytes).
    """

    def __init__(self, key: SigningKey, now: Callable[[], float] = time.time) -> None:
        self._secret = keccak(b"retally/quotes" + key.secret)
        self._now = now

    def give(self, node: str) -> str:
        """A new quote for that node."""
        said = (int(self._now()) + QUOTE_SECONDS).to_bytes(_TIME_BYTES, "big") + address_bytes(node)
        return (said + self._seal(said)).hex()

    def node_of(self, quote_id: str) -> str:
        """The quoted node; raises when the quote is not one of this router's or is over."""
        raw = _bytes_of(quote_id)
        said, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
        is_ours = len(raw) == _QUOTE_BYTES and hmac.compare_digest(seal, self._seal(said))
        if not is_ours or int.from_bytes(said[:_TIME_BYTES], "big") < self._now():
            hint = "ask for a new quote with POST /retally/v1/quotes"
            raise BadRequest("the quote is unknown or expired", param="quoteId", code="quote_expired", hint=hint)
        return address_from_bytes(said[_TIME_BYTES:])

    def _seal(self, said: bytes) -> bytes:
        return hmac.digest(self._secret, said, "sha256")[:_SEAL_BYTES]


def _bytes_of(quote_id: str) -> bytes:
    try:
        return bytes.fromhex(quote_id)
    except ValueError:
        return b""
