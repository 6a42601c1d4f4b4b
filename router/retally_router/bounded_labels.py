"""Labels that take a limited number of values: anybody may register nodes and models, and a node may say any code."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

MOST_VALUES = 200
MOST_CHILDREN = 2000
OTHER = "other"


class BoundedCounter(Counter):
    """A counter whose labels take a limited number of values each; what comes later is counted as `other`."""

    def labels(self, *values: Any, **named: Any) -> BoundedCounter:
        """The child for these values; it is looked for once."""
        known: dict[tuple[tuple[str, Any], ...], BoundedCounter] = self.__dict__.setdefault("known_children", {})
        child = known.get(key := tuple(named.items()))
        if child is None:
            taken = {name: bounded(self, name, str(value)) for name, value in named.items()}
            child = super().labels(**taken)
            # What somebody may say at any length is not kept.
            if len(known) < MOST_CHILDREN and OTHER not in taken.values():
                known[key] = child
        return child


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
