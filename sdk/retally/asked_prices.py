"""The most that a request's own body allows a token to cost (`provider.max_price`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.errors import UnsupportedParameter
from retally.protocol.encoding import check_integer
from retally.protocol.pricing import Prices

_TOP = 2**64 - 1
_NAMES = frozenset({"prompt", "cached", "completion"})


def asked_max_prices(body: Mapping[str, Any]) -> Prices | None:
    """`provider.max_price` of a body."""
    provider = body.get("provider")
    return max_prices_of(provider.get("max_price")) if isinstance(provider, Mapping) else None


def max_prices_of(wanted: object) -> Prices | None:
    """`max_price`, in amounts per million tokens; what it leaves open is unbounded, cached input as fresh."""
    if wanted is None:
        return None
    if not isinstance(wanted, Mapping) or wanted.keys() - _NAMES:
        raise UnsupportedParameter("provider.max_price", "knows prompt, cached and completion")
    prompt = _price(wanted, "prompt", _TOP)
    return Prices(prompt, _price(wanted, "cached", prompt), _price(wanted, "completion", _TOP))


def _price(wanted: Mapping[str, Any], name: str, default: int) -> int:
    value = wanted.get(name)
    return default if value is None else check_integer(f"provider.max_price.{name}", value, 64)
