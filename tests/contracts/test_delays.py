"""Delays that fit together: nobody can leave before it could be judged, or be kept for longer than that takes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from web3.contract import Contract

from compile_contracts import Artifact
from tests.contracts.world import DAY, World

NAMES = ("payerThaw", "evidence", "judgement", "stakeThaw", "tightening")
FITTING = dict(zip(NAMES, (3 * DAY, 7 * DAY, 8 * DAY, 21 * DAY, 28 * DAY), strict=True))


@pytest.fixture
def harness(world: World, test_contracts: Mapping[str, Artifact]) -> Contract:
    """The check alone."""
    return world.create_test(test_contracts["DelaysHarness"])


class TestCheck:
    @pytest.mark.parametrize("divisor", [1, 7, 86_400])
    def test_passes_at_any_scale(self, harness: Contract, divisor: int) -> None:
        harness.functions.check(tuple(value // divisor for value in FITTING.values())).call()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("payerThaw", 0),
            ("payerThaw", 7 * DAY),
            ("evidence", 13 * DAY),
            ("judgement", 0),
            ("judgement", 14 * DAY),
            ("stakeThaw", 15 * DAY),
            ("stakeThaw", 28 * DAY),
        ],
    )
    def test_reverts_when_one_could_outrun_another(
        self, world: World, harness: Contract, name: str, value: int
    ) -> None:
        delays = FITTING | {name: value}
        with world.reverts("DelaysOutOfOrder", *delays.values()):
            harness.functions.check(tuple(delays.values())).call()
