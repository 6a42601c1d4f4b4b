"""The tables of docs/CONTRACTS.md say what is deployed, those of docs/THREATS.md name tests that exist."""

from __future__ import annotations

import re

import compile_contracts
from retally.chain.parameters import default_parameters, longest_case_seconds
from tests.contracts.world import DAY

ROOT = compile_contracts.ROOT
TEXT = (ROOT / "docs" / "CONTRACTS.md").read_text(encoding="utf-8")
THREATS = (ROOT / "docs" / "THREATS.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| (\d+) \| \S", re.MULTILINE)
SEVERITY = re.compile(r"^\| (mismatch|tiling|overbilling|conflict|duty)\b[^|]*\| ([\d,]+) \|", re.MULTILINE)


class TestContractsPage:
    def test_has_every_parameter_with_its_value(self) -> None:
        shown: dict[str, dict[str, int]] = {}
        for contract, name, value in ROW.findall(TEXT):
            shown.setdefault(contract, {})[name] = int(value)
        assert shown == default_parameters()

    def test_has_the_severities(self) -> None:
        staking = default_parameters()["Staking"]
        shown = {name: int(value.replace(",", "")) for name, value in SEVERITY.findall(TEXT)}
        assert shown == {
            name: staking[f"{name}Ppm"] for name in ("mismatch", "tiling", "overbilling", "conflict", "duty")
        }

    def test_draws_the_delays_as_they_are(self) -> None:
        assert longest_case_seconds(default_parameters()["Court"]) == 7 * DAY
        assert "at most 7 d of votes and appeals" in TEXT


class TestThreatsPage:
    def test_names_tests_that_exist(self) -> None:
        named = re.findall(r"`([\w.]+)::(\w+)`", THREATS)
        assert len(named) > 100
        missing = [f"{file}::{test}" for file, test in named if not has_test(file, test)]
        assert not missing

    def test_names_one_in_every_row(self) -> None:
        rows = [line for line in THREATS.splitlines() if line.startswith("| ") and not line.endswith("tests |")]
        assert len(rows) > 80
        assert [row for row in rows if "::test" not in row and "::check" not in row] == []


class TestFiles:
    def test_that_either_page_names_exist(self) -> None:
        for path in re.findall(r"`((?:tests|scripts|contracts|docs|sdk)/[\w./]+)`", TEXT + THREATS):
            assert (ROOT / path).exists(), path
        for name in re.findall(r"`(test_\w+\.py)`", TEXT + THREATS):
            assert list((ROOT / "tests").rglob(name)), name


def has_test(file: str, test: str) -> bool:
    """Whether exactly one file of this name holds a test of that."""
    paths = list((ROOT / "tests").rglob(file if file.endswith(".sol") else f"test_{file}.py"))
    head = re.compile(rf"^ *(?:async )?(?:def|function) {test}\(", re.MULTILINE)
    return len(paths) == 1 and head.search(paths[0].read_text(encoding="utf-8")) is not None
