"""When a failing node is left alone, and how it comes back."""

from __future__ import annotations

from retally_router.attempts import pause_seconds
from retally_router.breaker import Breaker


def opened(times: int = 1) -> tuple[Breaker, float]:
    """A breaker after so many openings, and the moment of the last failure."""
    breaker, now = Breaker(failures_to_open=3, open_seconds=10.0), 0.0
    for _ in range(3):
        breaker.failed(now, 0.0)
    for _ in range(times - 1):
        now = breaker.open_until
        assert breaker.began(now)
        breaker.failed(now, 0.0)
    return breaker, now


def test_opens_after_enough_failures_in_a_row() -> None:
    breaker = Breaker(failures_to_open=3, open_seconds=10.0)
    for _ in range(2):
        breaker.failed(0.0, 0.0)
    assert not breaker.is_open(0.0)
    breaker.failed(0.0, 0.0)
    assert breaker.is_open(0.0)
    assert breaker.is_open(9.9)


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker(failures_to_open=2, open_seconds=10.0)
    for _ in range(10):
        breaker.failed(0.0, 0.0)
        breaker.succeeded()
    assert not breaker.is_open(0.0)


def test_half_open_lets_one_probe_through() -> None:
    breaker, _ = opened()
    assert not breaker.is_open(10.0)
    assert breaker.began(10.0)
    assert breaker.is_open(10.0)
    assert breaker.is_open(1000.0)


def test_a_good_probe_closes() -> None:
    breaker, _ = opened()
    breaker.began(10.0)
    breaker.succeeded()
    assert not breaker.is_open(10.0)
    breaker.failed(10.0, 0.0)
    assert not breaker.is_open(10.0)


def test_a_bad_probe_opens_for_longer_each_time() -> None:
    waits = [breaker.open_until - now for breaker, now in map(opened, range(1, 9))]
    assert waits == [10, 20, 40, 80, 160, 320, 320, 320]


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    breaker, _ = opened()
    breaker.began(10.0)
    breaker.ended()
    assert not breaker.is_open(10.0)
    assert breaker.began(10.0)


def test_jitter_only_lengthens_the_wait() -> None:
    breaker = Breaker(failures_to_open=1, open_seconds=10.0)
    breaker.failed(0.0, 0.99)
    assert 10.0 < breaker.open_until <= 11.0


def test_pauses_before_another_node_grow_up_to_a_bound_and_scatter() -> None:
    assert [pause_seconds(tries, 1.0) for tries in (1, 2, 3, 9)] == [0.01, 0.02, 0.04, 0.25]
    assert pause_seconds(3, 0.0) == 0.0
    assert pause_seconds(3, 0.25) == 0.01
