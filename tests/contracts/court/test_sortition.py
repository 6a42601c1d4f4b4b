"""Lots are drawn in proportion to stake, and nobody is drawn twice."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy.stats import chisquare
from scripts.compile_contracts import collect_sources, compile_sources
from web3.contract import Contract

from tests.contracts.court.world import World, key

SOURCE = "tests/solidity/SortitionHarness.sol"
PEOPLE = [key(f"person {i}").address for i in range(6)]
WEIGHTS = [1, 2, 3, 0, 4, 10**27]


@pytest.fixture(scope="module")
def harness(founded_world: World) -> Contract:
    """The library behind a contract."""
    artifact = compile_sources(collect_sources([SOURCE]))[SOURCE]["SortitionHarness"]
    return founded_world.ledger.deploy(artifact.abi, artifact.bytecode)


def juries(harness: Contract, weights: list[int], size: int, amount: int = 2_000) -> list[list[str]]:
    """Many drawn juries."""
    drawn: list[list[str]] = []
    for first in range(0, amount, 500):
        call = harness.functions.draws(first, 500, PEOPLE, weights, size)
        drawn += call.call({"gas": 50_000_000})
    return drawn


class TestDraw:
    def test_first_lot_follows_the_stakes(self, harness: Contract) -> None:
        weights = [1, 2, 3, 0, 4, 10]
        counts = Counter(jury[0] for jury in juries(harness, weights, 1))
        assert counts[PEOPLE[3]] == 0
        able = [i for i, weight in enumerate(weights) if weight]
        expected = [2_000 * weights[i] / 20 for i in able]
        assert chisquare([counts[PEOPLE[i]] for i in able], expected).pvalue > 0.001

    def test_second_lot_follows_what_is_left(self, harness: Contract) -> None:
        weights = [1, 2, 3, 0, 0, 0]
        counts = Counter(tuple(jury) for jury in juries(harness, weights, 2))
        pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
        expected = [2_000 * weights[i] / 6 * weights[j] / (6 - weights[i]) for i, j in pairs]
        observed = [counts[(PEOPLE[i], PEOPLE[j])] for i, j in pairs]
        assert chisquare(observed, expected).pvalue > 0.001

    @pytest.mark.parametrize(("size", "seated"), [(0, 0), (1, 1), (5, 5), (6, 5), (100, 5)])
    def test_nobody_twice_and_nobody_without_stake(self, harness: Contract, size: int, seated: int) -> None:
        for jury in juries(harness, WEIGHTS, size, amount=500):
            assert len(jury) == len(set(jury)) == seated
            assert PEOPLE[3] not in jury
