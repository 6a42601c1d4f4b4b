"""What a payer allows one API key beside the cap on chain: the router that holds the key enforces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retally.errors import BadRequest
from retally.protocol.encoding import parse_object

LARGEST = 2**53 - 1
_NAMES = {
    "requestsPerMinute": "requests_per_minute",
    "tokensPerMinute": "tokens_per_minute",
    "spendPerDay": "spend_per_day",
    "spendTotal": "spend_total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """The limits of one API key; amounts in the asset's smallest unit, none where nothing is limited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    spend_per_day: int | None = None
    spend_total: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return not self.to_wire()

    def to_wire(self) -> dict[str, str]:
        """The limits that there are, by name, in a fixed order."""
        values = {name: getattr(self, attribute) for name, attribute in _NAMES.items()}
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_wire(cls, value: object) -> KeyLimits:
        """The limits of an object like `{"requestsPerMinute": 60}`; integers, or strings of them."""
        if value is None:
            return cls()
        wire = parse_object("limits", value)
        for name in wire.keys() - _NAMES.keys():
            raise BadRequest(f"limits has no {name[:40]}", param="limits", hint=f"known are {', '.join(_NAMES)}")
        return cls(**{_NAMES[name]: _limit(name, wire) for name in wire if wire[name] is not None})


def _limit(name: str, wire: Mapping[str, object]) -> int:
    value = wire[name]
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
        param = f"limits.{name}"
        raise BadRequest(f"{param} must be an integer from 1 to {LARGEST}", param=param)
    return value
