"""The running sums of a channel's open segments are the sums over them, whatever opens, grows and closes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retally_router.open_segments import OpenSegment, OpenSegments

KEYS = [(bytes([number]), 0, 0) for number in range(4)]
SEGMENTS = st.builds(
    OpenSegment,
    st.integers(0, 10**10),
    st.integers(0, 10**8),
    st.integers(0, 500),
    st.just("place"),
    st.integers(0, 600),
)
STEPS = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(KEYS), SEGMENTS),
    st.tuples(st.just("count"), st.sampled_from(KEYS), st.integers(0, 300)),
    st.tuples(st.just("close"), st.sampled_from(KEYS), st.none()),
)


@given(st.lists(STEPS, max_size=30))
def test_sums_are_those_of_the_segments(steps: list[tuple[str, tuple[bytes, int, int], object]]) -> None:
    opened = OpenSegments()
    for what, key, value in steps:
        if what == "open":
            opened.add({key: value})
        elif what == "count":
            opened.count(key, value)
        elif key in opened:
            del opened[key]
        for name in ("upper", "slack", "limit"):
            assert getattr(opened, name) == sum(getattr(segment, name) for segment in opened.values())


@pytest.mark.parametrize(
    "past",
    [
        lambda segments: segments.pop((b"", 0, 0)),
        lambda segments: segments.update({}),
        lambda segments: segments.clear(),
        lambda segments: segments.popitem(),
        lambda segments: segments.setdefault((b"", 0, 0)),
        lambda segments: segments.__ior__({}),
    ],
)
def test_nothing_changes_them_past_their_sums(past: Callable[[OpenSegments], object]) -> None:
    with pytest.raises(NotImplementedError):
        past(OpenSegments())
