"""The committed artifacts are what the sources compile to, byte by byte; every declared error is raised by a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import compile_contracts

ROOT = Path(compile_contracts.__file__).resolve().parents[1]
ERROR = re.compile(r"^\s*error (\w+)\(", re.MULTILINE)


class TestArtifacts:
    def test_are_rebuilt_to_the_same_bytes(self) -> None:
        rebuilt = {name: artifact.to_json() for name, artifact in compile_contracts.compile_contracts().items()}
        committed = {path.stem: path.read_text(encoding="utf-8") for path in compile_contracts.ARTIFACTS.glob("*.json")}
        assert rebuilt.keys() == committed.keys()
        assert [name for name in rebuilt if rebuilt[name] != committed[name]] == []

    def test_name_no_machine(self) -> None:
        for path in compile_contracts.ARTIFACTS.glob("*.json"):
            assert set(json.loads(path.read_text(encoding="utf-8"))) == {"abi", "bytecode", "deployedBytecodeHash"}


class TestErrors:
    def test_each_declared_one_is_raised_by_a_test(self) -> None:
        sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "contracts").rglob("*.sol"))
        here = Path(__file__).resolve().parent
        tests = "\n".join(path.read_text(encoding="utf-8") for path in here.rglob("test_*.py"))
        missing = [name for name in ERROR.findall(sources) if f'"{name}"' not in tests]
        assert not missing, missing
