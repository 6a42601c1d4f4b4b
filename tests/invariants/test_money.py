"""The books balance after any moves (README.md in this folder)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contracts.world import World
from tests.invariants.money_machine import MoneyMachine

pytestmark = pytest.mark.slow


def test_books_balance_after_any_moves(deployed_world: World) -> None:
    checked = settings(
        max_examples=6,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        # Each step is a transaction: shrinking a failure would take longer than reading it.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: MoneyMachine(deployed_world), settings=checked)
