"""README.md in this folder names for each invariant a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
TEXT = (TESTS / "invariants" / "README.md").read_text(encoding="utf-8")
INVARIANTS = re.split(r"\n(?=- \*\*I-\d+\*\*)", TEXT)[1:]


def test_states_at_least_thirty_each_once() -> None:
    numbers = [int(re.findall(r"\*\*I-(\d+)\*\*", text)[0]) for text in INVARIANTS]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 30


def test_each_names_tests_that_exist() -> None:
    for text in INVARIANTS:
        named = re.findall(r"`([\w/.]+)::(\w+)`", text)
        assert named, text
        for path, name in named:
            code = (TESTS / path).read_text(encoding="utf-8")
            assert re.search(rf"\b(?:def|function) {name}\(", code), f"{path} has no {name}"


def test_quoted_numbers_exist() -> None:
    for path in [*TESTS.glob("solidity/deep/*.sol"), *TESTS.glob("invariants/*.py")]:
        for number in re.findall(r"\bI-(\d+)\b", path.read_text(encoding="utf-8")):
            assert f"**I-{number}**" in TEXT, f"{path.name} quotes I-{number}"
