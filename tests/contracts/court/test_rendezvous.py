"""Who is on duty is drawn in proportion to a weight, by numbers that nobody else's weight moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

import pytest
from scipy.stats import chisquare
from scripts.compile_contracts import collect_sources, compile_sources
from web3.contract import Contract

from retally.protocol.encoding import keccak
from tests.contracts.court.world import World, key

SOURCE = "tests/solidity/RendezvousHarness.sol"
PEOPLE = [key(f"person {i}").address for i in range(6)]
DRAWS = 2_000


@pytest.fixture(scope="module")
def harness(founded_world: World) -> Contract:
    """The library behind a contract."""
    artifact = compile_sources(collect_sources([SOURCE]))[SOURCE]["RendezvousHarness"]
    return founded_world.ledger.deploy(artifact.abi, artifact.bytecode)


def drawn(harness: Contract, people: Sequence[str], weights: Sequence[int]) -> list[str]:
    """Whom many seeds draw."""
    found: list[str] = []
    for first in range(0, DRAWS, 500):
        places = harness.functions.draws(first, 500, people, weights).call({"gas": 50_000_000})
        found += [people[place] for place in places]
    return found


class TestDraw:
    @pytest.mark.parametrize("unit", [1, 10**9, 10**30])
    def test_follows_the_weights(self, harness: Contract, unit: int) -> None:
        weights = [1, 2, 3, 0, 4, 10]
        counts = Counter(drawn(harness, PEOPLE, [weight * unit for weight in weights]))
        assert counts[PEOPLE[3]] == 0
        able = [i for i, weight in enumerate(weights) if weight]
        expected = [DRAWS * weights[i] / 20 for i in able]
        assert chisquare([counts[PEOPLE[i]] for i in able], expected).pvalue > 0.001

    def test_a_weight_that_changes_decides_only_about_its_own(self, harness: Contract) -> None:
        weights = [5, 2, 3, 1, 4, 10]
        before = drawn(harness, PEOPLE, weights)
        for weight in (0, 1, 4, 6, 10**6):
            after = drawn(harness, PEOPLE, [weight, *weights[1:]])
            changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            assert changed
            # More takes duties from others, less gives them up: nobody else's goes to anybody else.
            assert all(pair[weight > 5] == PEOPLE[0] for pair in changed)

    def test_order_and_company_decide_nothing(self, harness: Contract) -> None:
        weights = [5, 2, 3, 1, 4, 10]
        before = drawn(harness, PEOPLE, weights)
        assert drawn(harness, PEOPLE[::-1], weights[::-1]) == before
        fewer = drawn(harness, PEOPLE[1:], weights[1:])
        assert all(old in (new, PEOPLE[0]) for old, new in zip(before, fewer, strict=True))


class TestLot:
    def test_is_the_logarithm(self, harness: Contract) -> None:
        for number in range(50):
            seed = keccak(bytes([number]))
            assert harness.functions.lot(seed, PEOPLE[0]).call() == pytest.approx(lot(seed, PEOPLE[0]) * 1e18, rel=1e-9)

    def test_counts_from_the_largest(self, harness: Contract) -> None:
        assert harness.functions.lnAll().call() == 47_276_307_437_780_177_293


def lot(seed: bytes, who: str) -> float:
    """The lot of a candidate, written a second time."""
    drawn_ = int.from_bytes(keccak(seed + bytes.fromhex(who[2:]).rjust(32, b"\0"))[:16], "big") + 1
    return -log(drawn_ / 2**128)
