"""A short run of scripts/simulate_juries: its lots are the contract's, and a case ends on the chain as by the rules."""

from __future__ import annotations

from argparse import Namespace
from itertools import combinations
from random import Random

import pytest

from jury_simulation import Trial, colluding, founded, try_cases
from retally.protocol.encoding import keccak
from simulate_juries import by_lots, on_chain, share_of, table_row
from tests.contracts.court.ledger import start_anvil
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH

OPTIONS = Namespace(size=3, draws=60, cases=2)


def test_lots_and_cases_are_those_of_the_rules() -> None:
    process, url = start_anvil()
    try:
        world, entries, coalition = founded(url, OPTIONS.size, 24, 0.3, Random(1))
        assert 0.2 < share_of(coalition, entries) <= 0.3
        drawn = by_lots(world, entries, coalition, OPTIONS)
        assert drawn["cases"] == OPTIONS.draws
        assert drawn["twinAgrees"]
        chain = on_chain(world, entries, coalition, OPTIONS)
        assert (chain["cases"], chain["ruledOtherwise"]) == (2, 0)
        assert table_row(entries, coalition, 3, 1)["flipped"] < 0.2
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize(("others", "bought", "spared"), [(4, 2, 1.0), (6, 2, 0.0), (6, 3, 1.0)])
def test_half_of_a_small_pool_convicts_nobody_and_saves_whom_it_likes(others: int, bought: int, spared: float) -> None:
    """The table of decision 27: a first jury of three, then all the others; who has lost the first appeals."""
    people, coalition = range(others), {str(number) for number in range(bought)}

    def ended(first: tuple[int, ...], *, guilty: bool) -> int:
        trial = Trial(b"", 3, guilty)
        for jury in (first, people):
            trial.hear([str(number) for number in jury], coalition)
        return trial.verdict

    firsts = list(combinations(people, 3))
    assert sum(ended(first, guilty=False) == MISMATCH for first in firsts) == 0
    assert sum(ended(first, guilty=True) != MISMATCH for first in firsts) == spared * len(firsts)


def test_a_trial_follows_the_rules() -> None:
    honest, bought = [f"h{n}" for n in range(99)], [f"c{n}" for n in range(99)]
    trial = Trial(keccak(b"x"), 3)
    trial.hear(bought[:3], set(bought))
    assert (trial.verdict, trial.appeals, trial.wanted) == (MATCH, 1, 7)
    trial.hear([*honest[:4], *bought[:3]], set(bought))
    # The appeal's jury is inconclusive: a larger one follows, and the verdict stands meanwhile.
    assert (trial.verdict, trial.enlarged, trial.wanted, trial.closed) == (MATCH, True, 15, False)
    trial.hear(honest[:15], set(bought))
    assert (trial.verdict, trial.appeals, trial.closed) == (MISMATCH, 2, False)
    trial.hear(honest[:31], set(bought))
    assert (trial.verdict, trial.closed) == (MISMATCH, True)
    tied = Trial(keccak(b"z"), 3)
    tied.hear(honest[:3], set(bought))
    tied.hear([*honest[:4], *bought[:3]], set(bought))
    assert (tied.verdict, tied.appeals) == (MISMATCH, 1)
    tied.hear([*honest[:7], *bought[:7]], set(bought))
    assert (tied.verdict, tied.appeals, tied.closed) == (INCONCLUSIVE, 2, False)
    undecided = Trial(keccak(b"y"), 3)
    undecided.hear([honest[0], bought[0]], set(bought))
    assert (undecided.verdict, undecided.enlarged, undecided.appeals) == (INCONCLUSIVE, True, 0)
    assert try_cases([trial], set(), lambda part, size: []) == []
    assert colluding([], 0.3, Random(1)) == set()
