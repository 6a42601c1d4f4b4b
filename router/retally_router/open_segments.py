"""A channel's open segments, and what they can cost together: asked with each chunk, while a thousand are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retally.protocol.pricing import PER

# Tokens that a node may have put out on an open segment before we saw them.
UNSEEN_TOKENS = 64

SegmentKey = tuple[bytes, int, int]


@dataclass(slots=True)
class OpenSegment:
    """An open segment's largest cost by our own count."""

    input_cost: int
    price_out: int
    max_output: int
    #: The place on record of the job at its node.
    place: str
    #: Raised by OpenSegments.count alone, once it is among them.
    output: int = 0
    #: Whether its receipt is counted already, and only not on record yet: it costs nothing more.
    is_charged: bool = False
    #: What it can be due for at all.
    limit: int = field(init=False)
    #: By what we saw of it.
    upper: int = field(init=False)
    _unseen: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = (self.input_cost + self.max_output * self.price_out) // PER
        self._unseen = UNSEEN_TOKENS * self.price_out // PER + 1
        self.see(0)

    def see(self, tokens: int) -> None:
        """So many more came."""
        self.output += tokens
        self.upper = (self.input_cost + self.output * self.price_out) // PER

    @property
    def slack(self) -> int:
        """What it can be due for beyond that."""
        return min(self._unseen, self.limit - self.upper)


class OpenSegments(dict[SegmentKey, OpenSegment]):
    """The segments by key, with running sums of their upper, slack and limit."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = self.slack = self.limit = 0
        #: Which may be due for more than when this was emptied last, in the order in which they grew.
        self.grown: dict[SegmentKey, None] = {}

    def count(self, key: SegmentKey, tokens: int) -> None:
        """So many more tokens were seen of a segment, if it is open."""
        segment = self.get(key)
        if segment is not None and not segment.is_charged:
            upper, slack = segment.upper, segment.slack
            segment.see(tokens)
            self.upper += segment.upper - upper
            self.slack += segment.slack - slack
            self.grown[key] = None

    def charge(self, key: SegmentKey) -> None:
        """Its receipt is counted: it costs nothing more."""
        self._add(self[key], -1)
        self[key].is_charged = True

    def add(self, segments: Mapping[SegmentKey, OpenSegment]) -> None:
        """Opens them."""
        for key, segment in segments.items():
            self[key] = segment

    def __setitem__(self, key: SegmentKey, segment: OpenSegment) -> None:
        if key in self:
            self._add(self[key], -1)
        super().__setitem__(key, segment)
        self._add(segment, 1)
        self.grown[key] = None

    def __delitem__(self, key: SegmentKey) -> None:
        self._add(self[key], -1)
        super().__delitem__(key)

    # What would change the segments past the sums is not there.
    def pop(self, *_: Any) -> Any:
        """Use `del`."""
        raise NotImplementedError

    def update(self, *_: Any, **__: Any) -> None:
        """Use `add`."""
        raise NotImplementedError

    clear = popitem = setdefault = __ior__ = pop

    def _add(self, segment: OpenSegment, sign: int) -> None:
        if segment.is_charged:
            return
        self.upper += sign * segment.upper
        self.slack += sign * segment.slack
        self.limit += sign * segment.limit
