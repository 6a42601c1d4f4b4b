"""The lock of Python packages serves every Python that the project names, not only the one that it was made with."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCK = Path(__file__).resolve().parents[2] / "scripts" / "locks" / "cpu.txt"
#: What the lock says it leaves out, and torch, which comes from elsewhere.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> list[str]:
    lines = LOCK.read_text().splitlines()
    return [canonical(line.split("==")[0].split("[")[0]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("version", ["3.11.0", "3.11.2", "3.11.9", "3.12.0"])
def test_names_all_that_its_packages_need(version: str) -> None:
    names, missing = set(locked()) | LEFT_OUT, set[str]()
    environment = {"python_full_version": version, "python_version": version.rpartition(".")[0], "extra": ""}
    for name in names - LEFT_OUT:
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            # For another kind of machine.
            continue
        for line in requires:
            needed = Requirement(line)
            if needed.marker is not None and not needed.marker.evaluate(environment):
                continue
            if canonical(needed.name) not in names:
                missing.add(f"{name} needs {needed}")
    assert missing == set()
