"""What a client wants of the node that serves it: `provider`, in OpenRouter's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.pricing import Prices

SORTS = ("price", "latency", "throughput")
_PROVIDER = frozenset({"order", "only", "ignore", "max_price", "sort", "allow_fallbacks", "allow_unaudited", "audit"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """Which nodes a client takes, and what matters to it."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    max_prices: Prices | None = None
    sort: str | None = None
    allow_fallbacks: bool = True
    allow_unaudited: bool = False
    audit_consent: bool = True


def read_wishes(value: object) -> Wishes:
    """The wishes of a `provider` object; nothing undefined passes."""
    if value is None:
        return Wishes()
    if not isinstance(value, dict):
        raise BadRequest("provider must be an object", param="provider")
    for name in sorted(value.keys() - _PROVIDER):
        raise UnsupportedParameter(f"provider.{name}")
    audit = value.get("audit")
    return Wishes(
        order=_addresses(value, "order"),
        only=_addresses(value, "only"),
        ignore=_addresses(value, "ignore"),
        sort=_sort(value.get("sort")),
        max_prices=_max_prices(value.get("max_price")),
        allow_fallbacks=value.get("allow_fallbacks") is None or read_bool(value, "allow_fallbacks"),
        allow_unaudited=read_bool(value, "allow_unaudited"),
        audit_consent=audit is None or read_bool(value, "audit"),
    )


def _addresses(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    items = value.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BadRequest(f"provider.{name} must be a list of node addresses", param=f"provider.{name}")
    return tuple(item.lower() for item in items)


def _sort(value: object) -> str | None:
    if value is None or value in SORTS:
        return None if value is None else str(value)
    raise UnsupportedParameter("provider.sort", f"must be one of {', '.join(SORTS)}")


def _max_prices(value: object) -> Prices | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() - {"prompt", "cached", "completion"}:
        raise UnsupportedParameter("provider.max_price", "knows prompt, cached and completion")
    top = 2**64 - 1
    prompt = read_integer(value, "prompt", top, 0, top)
    return Prices(prompt, read_integer(value, "cached", prompt, 0, top), read_integer(value, "completion", top, 0, top))


def read_bool(body: Mapping[str, Any], name: str) -> bool:
    """A JSON boolean; absent is false."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", param=name)
    return value


def read_integer(body: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A JSON integer within bounds, or the default."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name} must be an integer from {low} to {high}", param=name)
    return int(value)
