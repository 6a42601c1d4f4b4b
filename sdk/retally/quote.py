"""A router's quote: which node would take the job, and that node's own signed offer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from retally.ask import Ask
from retally.errors import BadRequest, InvalidReceipt
from retally.http_steps import HttpAnswer, HttpCall, Steps, call
from retally.keystore import DEVELOPMENT_CHAIN
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import Address, check_integer, parse_object, parse_signature
from retally.protocol.offer import Offer
from retally.wallet import Wallet

QUOTES_PATH = "/retally/v1/quotes"
CLOCK_SECONDS = 3600


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
        now = check_integer("now", wire.get("now") or int(time.time()), 40)
        default = wire.get("defaultMaxTokens")
        return cls(
            quote_id=str(wire.get("quoteId")),
            offer=Offer.from_wire(wire.get("offer")),
            offer_signature=parse_signature("offerSignature", wire.get("offerSignature")),
            default_max_tokens=None if default is None else check_integer("defaultMaxTokens", default, 32),
            template_date=_date(wire.get("templateDate") or time.strftime("%Y-%m-%d", time.gmtime(now))),
            now=now,
            dimensions=check_integer("dimensions", wire.get("dimensions") or 0, 32),
        )


def _date(value: object) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.strptime(str(value), "%Y-%m-%d"))
    except ValueError as error:
        raise BadRequest("templateDate must be a date like 2027-01-15", param="templateDate") from error


def check_clock(now: int, chain_id: int) -> None:
    """Raises BadRequest where a router's time is far from ours: deadlines and offers' ends are read by it."""
    ours = int(time.time())
    # A devnet's time is moved at will.
    if chain_id != DEVELOPMENT_CHAIN and abs(now - ours) > CLOCK_SECONDS:
        hint = "set this machine's clock right; where it is, ask another router"
        raise BadRequest(f"the router says that it is {now}, this clock says {ours}", code="clock_differs", hint=hint)


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
    check_clock(quote.now, wallet.domain.chain_id)
    check_signed_by(quote.offer.digest(wallet.domain), quote.offer_signature, quote.offer.node)
    if quote.offer.valid_until <= quote.now:
        raise InvalidReceipt("an offer that is still valid", quote.now, quote.offer.valid_until)
    return quote
