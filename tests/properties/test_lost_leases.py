"""Two processes over a store that loses holds and breaks off: no more is promised than there is, nor held at last."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.credit_world import play
from tests.properties.test_credit import BALANCE
from tests.router_world import DATABASE, database_url

UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

signers, jobs = st.sampled_from([0, 1]), st.sampled_from("abcdef")
large = st.sampled_from([40, 60, 90, 97, 100])
some = st.lists(st.tuples(jobs, st.sampled_from([0, 1]), st.sampled_from([1, 3, BALANCE])), min_size=1, max_size=4)
faults = st.sampled_from(["unheard", "unanswered", "late"])
steps = st.one_of(
    st.tuples(st.just("hold"), jobs, signers, st.integers(1, 3)),
    st.tuples(st.just("hold"), jobs, signers, large),
    st.tuples(st.just("hold"), jobs, signers, large),
    st.tuples(st.just("release"), jobs),
    st.tuples(st.just("promise"), some),
    st.tuples(st.just("promise"), some),
    st.tuples(st.just("beyond"), some),
    st.tuples(st.just("cover"), jobs, large),
    st.tuples(st.just("meanwhile"), some, jobs, st.integers(0, 3)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("shrink"), st.integers(0, 5), st.integers(1, 9)),
    st.tuples(st.just("tidy"), st.sampled_from([0, 1])),
    st.tuples(st.just("fail"), st.sampled_from([0, 1]), st.integers(0, 2), faults),
    st.tuples(st.just("hear"), st.sampled_from([0, 1])),
)


@settings(max_examples=400, deadline=None, suppress_health_check=UNCHECKED)
@given(taken=st.lists(steps, min_size=5, max_size=25))
@example(taken=[("hold", "a", 0, 3), ("lose", 0), ("hold", "b", 0, 100)])
@example(taken=[("hold", "a", 0, 3), ("hold", "c", 1, 3), ("shrink", 0, 7), ("hold", "b", 0, 90)])
@example(
    taken=[("hold", "a", 0, 3), ("fail", 0, 0, "late"), ("promise", [("a", 0, 3)]), ("lose", 0), ("hold", "b", 0, 99)]
)
@example(taken=[("hold", "a", 0, 2), ("lose", 0), ("hold", "b", 0, 99), ("promise", [("a", 0, 1), ("a", 1, 1)])])
@example(taken=[("hold", "a", 0, 3), ("meanwhile", [("a", 0, 100)], "a", 1), ("hold", "b", 0, 97)])
@example(taken=[("hold", "a", 0, 60), ("fail", 0, 0, "late"), *[("cover", "a", 70)] * 2, ("release", "a"), ("hear", 0)])
@example(taken=[("hold", "a", 0, 60), ("beyond", [("a", 0, 60), ("a", 1, 60)])])
@example(taken=[("hold", "a", 0, 3), ("beyond", [("a", 0, 3), ("a", 1, 3)]), ("hold", "b", 0, 94)])
@example(taken=[("hold", "a", 0, 90), ("lose", 0), ("hold", "b", 0, 90), ("promise", [("b", 0, 90)])])
@example(
    taken=[
        ("hold", "a", 0, 1),
        ("beyond", [("a", 0, 1), ("a", 1, 100)]),
        ("lose", 0),
        ("meanwhile", [("a", 1, 1)], "a", 1),
    ]
)
def test_no_more_is_promised_than_there_is(redis_url: str, taken: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retally_router.asking.AGAIN_SECONDS", 0.001)
        asyncio.run(play(database_url(redis_url, DATABASE), taken))


kept = st.one_of(
    st.tuples(st.just("hold"), jobs, st.just(0), st.just(3)),
    st.tuples(st.just("hold"), jobs, st.just(0), st.just(3)),
    st.tuples(st.just("hold"), jobs, signers, st.one_of(large, st.integers(40, 60))),
    st.tuples(st.just("release"), jobs),
    st.tuples(st.just("promise"), some),
    st.tuples(st.just("promise"), some),
    st.tuples(st.just("cover"), jobs, large),
    st.tuples(st.just("tidy"), st.sampled_from([0, 1])),
    st.tuples(st.just("fail"), st.sampled_from([0, 1]), st.integers(0, 2), st.sampled_from(["unheard", "unanswered"])),
)


@settings(max_examples=200, deadline=None, suppress_health_check=UNCHECKED)
@given(taken=st.lists(kept, min_size=5, max_size=25))
@example(
    taken=[
        *(("hold", job, 0, 3) for job in "ace"),
        ("fail", 0, 0, "unanswered"),
        ("cover", "a", 40),
        ("promise", [("a", 0, 3)]),
        ("hold", "b", 0, 54),
    ]
)
@example(
    taken=[
        ("hold", "a", 0, 60),
        ("hold", "b", 0, 40),
        ("fail", 0, 0, "unanswered"),
        ("promise", [("a", 0, 3)]),
        ("cover", "a", 100),
        ("promise", [("a", 0, 100)]),
    ]
)
def test_no_job_is_refused_what_it_holds(redis_url: str, taken: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retally_router.asking.AGAIN_SECONDS", 0.001)
        asyncio.run(play(database_url(redis_url, DATABASE), taken, is_kept=True))
