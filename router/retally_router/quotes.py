"""Quotes: the node that a client with its own key will sign for."""

from __future__ import annotations

import secrets
from typing import Any

from retally.errors import BadRequest

QUOTE_SECONDS = 300


class Quotes:
    """Quote ids and their nodes, shared by all replicas."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def give(self, node: str) -> str:
        """A new quote for that node."""
        quote_id = secrets.token_hex(16)
        await self._redis.set(_key(quote_id), node, ex=QUOTE_SECONDS)
        return quote_id

    async def node_of(self, quote_id: str) -> str:
        """The quoted node; raises when the quote is gone."""
        node = await self._redis.get(_key(quote_id))
        if node is None:
            hint = "ask for a new quote with POST /retally/v1/quotes"
            raise BadRequest("the quote is unknown or expired", param="quoteId", code="quote_expired", hint=hint)
        return str(node.decode())


def _key(quote_id: str) -> str:
    return f"retally:quote:{quote_id}"
