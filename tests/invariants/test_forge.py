"""The short form of the forge suite: fuzz and invariants, the same as `scripts/test_contracts_deep` plays at length."""

from __future__ import annotations

import subprocess

import pytest

from deep_tests import Forge

pytestmark = pytest.mark.slow


def test_books_and_libraries_hold() -> None:
    done = Forge("default").test()
    assert done.returncode == 0, done.stdout[-4000:]


def test_finds_a_hole(capsys: pytest.CaptureFixture[str]) -> None:
    """A suite that cannot fail proves nothing: with one condition gone from the Escrow it must."""
    done = Forge("default").test_with(
        "contracts/base/EscrowState.sol", "a.balance = balance;", "a.balance = balance + 1;"
    )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode != 0
    assert "differs from its ghost" in done.stdout or "does not owe" in done.stdout
