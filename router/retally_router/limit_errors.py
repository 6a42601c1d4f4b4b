"""What a client is told that meets a limit of its key, in the headers that OpenAI's clients read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from retally.errors import PaymentRequired, RateLimited, RetallyError

_NAMES = {"rpm": b"requests", "tpm": b"tokens"}
_LIMITS = {"rpm": "requestsPerMinute", "tpm": "tokensPerMinute", "day": "spendPerDay", "total": "spendTotal"}
_UNITS = {"rpm": "requests a minute", "tpm": "tokens a minute", "day": "spent a day", "total": "spent in all"}


class Counted(Protocol):
    """What is known of one limit."""

    kind: str
    limit: int
    window_ends: float

    @property
    def remaining(self) -> int:
        """What is left of it."""
        ...


class LimitReached(RateLimited):
    """A limit of the API key; names the limit and what was asked for."""

    code = "rate_limit_exceeded"

    def __init__(self, kind: str, limit: int, asked: int, left: int, retry_after: float) -> None:
        super().__init__(f"this key's limit is {limit} {_UNITS[kind]}: {asked} asked, {left} left")
        self.retry_after = retry_after
        if asked > limit:
            self.hint = f"ask for less at once: this request alone counts up to {asked} (see max_tokens)"
        else:
            self.hint = f"retry in {math.ceil(retry_after)} s, or use a key with a higher {_LIMITS[kind]}"
        self.details = {"limit": _LIMITS[kind], "value": str(limit), "asked": str(asked), "left": str(left)}


class KeySpent(PaymentRequired):
    """The API key may spend no more, whatever its payer has."""

    code = "key_limit_exceeded"

    def __init__(self, limit: int, asked: int, left: int) -> None:
        super().__init__(f"this key may spend {limit} in all: up to {asked} asked, {left} left")
        self.hint = "ask for less, or make a new key with a higher spendTotal"
        self.details = {"limit": "spendTotal", "value": str(limit), "asked": str(asked), "left": str(left)}


def limit_error(counter: Counted, asked: int, wait_seconds: float) -> RetallyError:
    """The refusal of a request that meets that limit."""
    if counter.kind == "total":
        return KeySpent(counter.limit, asked, counter.remaining)
    return LimitReached(counter.kind, counter.limit, asked, counter.remaining, wait_seconds)


def rate_headers(counters: Iterable[Counted], now: float) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, as OpenAI sends them."""
    headers = []
    for counter in counters:
        name = _NAMES.get(counter.kind)
        if name is not None:
            reset = b"%ds" % max(0, math.ceil(counter.window_ends - now))
            headers += [
                (b"x-ratelimit-limit-" + name, str(counter.limit).encode()),
                (b"x-ratelimit-remaining-" + name, str(max(0, counter.remaining)).encode()),
                (b"x-ratelimit-reset-" + name, reset),
            ]
    return headers
