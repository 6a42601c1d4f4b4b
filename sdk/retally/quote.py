"""A router's quote: which node would take the job, and that node's own signed offer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from retally.ask import Ask
from retally.errors import InvalidReceipt
from retally.http_steps import HttpAnswer, HttpCall, Steps, call
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import Address, parse_object, parse_signature
from retally.protocol.offer import Offer
from retally.wallet import Wallet

QUOTES_PATH = "/retally/v1/quotes"


@dataclass(frozen=True, slots=True)
class Quote:
    """The node proposed, its offer, and what the router would fill in."""

    quote_id: str
    offer: Offer
    offer_signature: bytes
    default_max_tokens: int | None
    template_date: str
    now: int
    #: Components of the vectors that the node makes; 0 for a completion.
    dimensions: int = 0

    @property
    def node(self) -> Address:
        """The node proposed."""
        return self.offer.node

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Reads the router's answer."""
        wire: Any = parse_object("quote", value)
        # Chain time, not ours: deadlines are read by the node's chain clock.
        now = int(wire.get("now") or time.time())
        default = wire.get("defaultMaxTokens")
        return cls(
            quote_id=str(wire.get("quoteId")),
            offer=Offer.from_wire(wire.get("offer")),
            offer_signature=parse_signature("offerSignature", wire.get("offerSignature")),
            default_max_tokens=default if isinstance(default, int) else None,
            template_date=str(wire.get("templateDate") or time.strftime("%Y-%m-%d", time.gmtime(now))),
            now=now,
            dimensions=int(wire.get("dimensions") or 0),
        )


def quote_call(ask: Ask, wallet: Wallet, prompt_tokens: int, exclude: Sequence[str]) -> Steps[Quote | HttpAnswer]:
    """Asks the router for a node and checks that the node signed the offer; a refusal is handed back as it came."""
    body: dict[str, Any] = {
        "model": ask.model,
        "payer": wallet.payer,
        "signer": wallet.signer,
        "lane": wallet.lane,
        "n": ask.choices,
        "promptTokens": prompt_tokens,
        "maxOutput": ask.body.get("max_completion_tokens") or ask.body.get("max_tokens"),
        "exclude": list(dict.fromkeys(exclude)),
    }
    if ask.endpoint == "embeddings":
        body |= {"endpoint": ask.endpoint, "dimensions": ask.body.get("dimensions")}
    if ask.body.get("provider") is not None:
        body["provider"] = ask.body["provider"]
    given = {name: value for name, value in body.items() if value not in (None, [])}
    answer = yield from call(HttpCall("POST", QUOTES_PATH, json_body=given))
    if answer.failed:
        return answer
    quote = Quote.from_wire(answer.json())
    check_signed_by(quote.offer.digest(wallet.domain), quote.offer_signature, quote.offer.node)
    if quote.offer.valid_until <= quote.now:
        raise InvalidReceipt("an offer that is still valid", quote.now, quote.offer.valid_until)
    return quote
