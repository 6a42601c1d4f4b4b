"""Every error that the courts declare is raised by a test."""

from __future__ import annotations

import re

import pytest

from tests.contracts.court.ledger import ROOT

INTERFACES = ("IAudits", "IClaims", "ICourt", "IFaults", "IJurorPools", "ISilence", "ITraps", "ITreeFaults")
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests" / "contracts" / "court").glob("test_*.py"))


def declared(interface: str) -> list[str]:
    """Names of the errors of an interface."""
    source = (ROOT / "contracts" / "interfaces" / f"{interface}.sol").read_text()
    return re.findall(r"^ +error (\w+)\(", source, re.MULTILINE)


@pytest.mark.parametrize("error", [error for interface in INTERFACES for error in declared(interface)])
def test_is_raised(error: str) -> None:
    assert re.search(rf'reverts\(\s*"{error}"', TESTS)
