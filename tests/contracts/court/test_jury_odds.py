"""The exact odds of `scripts/jury_odds` follow the rules by which cases end on the chain."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from jury_odds import Setting, Standing, heard, odds, table
from jury_simulation import Trial
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH

BOUGHT = frozenset({"bought"})


@pytest.mark.parametrize("guilty", [True, False])
def test_a_round_is_heard_as_the_simulation_hears_it(guilty: bool) -> None:
    rounds = product((0, MATCH, MISMATCH, INCONCLUSIVE), range(3), (False, True), range(1, 10), range(10))
    for verdict, appeals, enlarged, size, bought in rounds:
        if bought > size:
            continue
        trial = Trial(b"", size, guilty, verdict, appeals, enlarged)
        trial.hear(["bought"] * bought + ["honest"] * (size - bought), BOUGHT)
        before = Standing(0, 0, 0, 0, size, 0, verdict, appeals, enlarged)
        after = heard(before, size, bought, Setting(guilty, tie_spares=True))
        assert (after.verdict, after.appeals, after.enlarged) == (trial.verdict, trial.appeals, trial.enlarged)
        assert after.wanted == (0 if trial.closed else trial.wanted)


@pytest.mark.parametrize("spares", [True, False])
@pytest.mark.parametrize(("pool", "jury"), [(5, 3), (15, 7), (30, 7)])
def test_something_always_stands_in_the_end(pool: int, jury: int, spares: bool) -> None:
    for bought in range(pool):
        assert sum(odds(pool, bought, jury, Setting(guilty=True, tie_spares=spares)).values()) == 1


def test_the_trial_that_convicted_an_honest_owner() -> None:
    """Two of five: a first jury of three holds both in one draw of two, all four others are tied."""
    was = odds(5, 2, 3, Setting(guilty=False, tie_spares=False))
    assert was[MISMATCH] == Fraction(1, 2)
    assert MISMATCH not in odds(5, 2, 3, Setting(guilty=False, tie_spares=True))


def test_the_rule_convicts_nobody_more_and_lets_no_guilty_go_below_a_third() -> None:
    for row in table():
        before, now = row["before"], row["now"]
        assert now["honestConvicted"] <= before["honestConvicted"]
        if 2 * row["colluding"] < row["owners"] - 1:
            assert now["honestConvicted"] == 0
        if 3 * row["colluding"] < row["owners"] - 1:
            assert (now["honestConvicted"], now["guiltyLetGo"]) == (0, 0)


def test_an_accuser_that_gives_up_leaves_more_standing() -> None:
    """Whoever appeals nothing gains nothing by it."""
    to_the_end = odds(30, 12, 7, Setting(guilty=True, tie_spares=True))
    gives_up = odds(30, 12, 7, Setting(guilty=True, tie_spares=True, accuser_appeals=False))
    assert gives_up[MISMATCH] < to_the_end[MISMATCH]
