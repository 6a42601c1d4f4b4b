"""Labels that take a limited number of values: anybody may register nodes and models, and a node may say any code."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

MOST_VALUES = 200
OTHER = "other"


class BoundedCounter(Counter):
    """A counter whose labels take a limited number of values each; what comes later is counted as `other`."""

    def labels(self, *values: Any, **named: Any) -> BoundedCounter:
        """The child for these values."""
        return super().labels(**{name: bounded(self, name, str(value)) for name, value in named.items()})


def bounded(holder: Any, name: str, value: str) -> str:
    """The value, or `other` when that label has had its number of them."""
    seen: dict[str, set[str]] = holder.__dict__.setdefault("seen_values", {})
    values = seen.setdefault(name, set())
    if value in values:
        return value
    if len(values) >= MOST_VALUES:
        return OTHER
    values.add(value)
    return value
