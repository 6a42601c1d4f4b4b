"""What a client wants of the node that serves it: `provider`, in OpenRouter's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retally.asked_prices import max_prices_of
from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.pricing import Prices

SORTS = ("price", "latency", "throughput")
REQUIREMENTS = ("parameters", "audited")
LONGEST_MILLISECONDS = 600_000
MOST_ADDRESSES = 256
PLACE = "provider."
_PROVIDER = frozenset(
    {
        "order",
        "only",
        "ignore",
        "max_price",
        "sort",
        "allow_fallbacks",
        "allow_unaudited",
        "audit",
        "targets",
        "preset",
        "require",
        "require_parameters",
        "max_rtt_ms",
    }
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick an answer should be, and how much a second counts beside the router's usual value of one."""

    ttft_seconds: float = 0.5
    tpot_seconds: float = 0.04
    worth: float = 1.0


ORDINARY = Pace()
PRESETS = {"patient": Pace(2.0, 0.1, 0.1), "eager": Pace(0.25, 0.02, 10.0)}


@dataclass(frozen=True, slots=True)
class Wishes:
    """Which nodes a client takes, and what matters to it."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    max_prices: Prices | None = None
    sort: str | None = None
    pace: Pace = ORDINARY
    max_rtt_seconds: float | None = None
    #: Never a node on probation, whose profile nobody calibrated yet.
    only_audited: bool = False
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
    audit, required = value.get("audit"), _requirements(value)
    rtt = _milliseconds(value, "max_rtt_ms", "provider.max_rtt_ms")
    if "audited" in required and read_bool(value, "allow_unaudited", PLACE):
        raise BadRequest("provider.require names audited, and allow_unaudited is true", param="provider.require")
    return Wishes(
        order=_addresses(value, "order"),
        only=_addresses(value, "only"),
        ignore=_addresses(value, "ignore"),
        sort=_sort(value.get("sort")),
        max_prices=max_prices_of(value.get("max_price")),
        pace=_pace(value),
        max_rtt_seconds=rtt,
        only_audited="audited" in required,
        allow_fallbacks=value.get("allow_fallbacks") is None or read_bool(value, "allow_fallbacks", PLACE),
        allow_unaudited=read_bool(value, "allow_unaudited", PLACE),
        audit_consent=audit is None or read_bool(value, "audit", PLACE),
    )


def _addresses(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    items = value.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BadRequest(f"provider.{name} must be a list of node addresses", param=f"provider.{name}")
    if len(items) > MOST_ADDRESSES:
        raise BadRequest(
            f"provider.{name} names {len(items)} nodes, at most {MOST_ADDRESSES}", param=f"provider.{name}"
        )
    return tuple(item.lower() for item in items)


def _sort(value: object) -> str | None:
    if value is None or value in SORTS:
        return None if value is None else str(value)
    raise UnsupportedParameter("provider.sort", f"must be one of {', '.join(SORTS)}")


def _requirements(value: Mapping[str, Any]) -> tuple[str, ...]:
    # Every node serves every parameter that the router lets through, so `parameters` always holds.
    read_bool(value, "require_parameters", PLACE)
    items = value.get("require") or []
    if not isinstance(items, list) or any(item not in REQUIREMENTS for item in items):
        raise UnsupportedParameter("provider.require", f"must be a list out of {', '.join(REQUIREMENTS)}")
    return tuple(items)


def _pace(value: Mapping[str, Any]) -> Pace:
    preset, targets = value.get("preset"), value.get("targets")
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise UnsupportedParameter("provider.preset", f"must be one of {', '.join(PRESETS)}")
    pace = PRESETS[preset] if preset is not None else ORDINARY
    if targets is None:
        return pace
    if not isinstance(targets, dict) or targets.keys() - {"ttft_ms", "tpot_ms"}:
        raise UnsupportedParameter("provider.targets", "knows ttft_ms and tpot_ms")
    ttft = _milliseconds(targets, "ttft_ms", "provider.targets.ttft_ms")
    tpot = _milliseconds(targets, "tpot_ms", "provider.targets.tpot_ms")
    return Pace(ttft or pace.ttft_seconds, tpot or pace.tpot_seconds, pace.worth)


def _milliseconds(value: Mapping[str, Any], name: str, param: str) -> float | None:
    number = value.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= LONGEST_MILLISECONDS:
        raise BadRequest(f"{param} must be above 0 and at most {LONGEST_MILLISECONDS} milliseconds", param=param)
    return number / 1000


def read_bool(body: Mapping[str, Any], name: str, within: str = "") -> bool:
    """A JSON boolean; absent is false. `within` says where the name stands, for the error."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{within}{name} must be true or false", param=within + name)
    return value


def read_integer(body: Mapping[str, Any], name: str, default: int, low: int, high: int, within: str = "") -> int:
    """A JSON integer within bounds, or the default."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{within}{name} must be an integer from {low} to {high}", param=within + name)
    return int(value)
