"""The tables of docs/CONTRACTS.md say what is deployed."""

from __future__ import annotations

import re

import compile_contracts
from retally.chain.parameters import default_parameters, longest_case_seconds
from tests.contracts.world import DAY

TEXT = (compile_contracts.ROOT / "docs" / "CONTRACTS.md").read_text(encoding="utf-8")
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
