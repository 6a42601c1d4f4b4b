"""Which branches of the contracts the tests on anvil take.

A copy of the checkout gets contracts that were compiled for counting (`coverage_map.py`) and an anvil that notes what
runs (`coverage_recorder.py`); the contract tests run there as they are. A branch is one side of an `if`, `require`,
`? :`, `&&`, `||` or loop, wherever its code ended up, or the entry of a function. `uncovered.json` beside the
invariants argues for each branch that no test can take.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from compile_contracts import ARTIFACTS, TIMELOCK, Artifact
from coverage_map import UNOPTIMISED, Branch, CoverageMap, write_codes
from deep_tests import DEEP, MODULES, ROOT, ToolFailed

COPY = DEEP / "coverage"
COPIED = ("contracts", "deployments", "docs", "scripts", "sdk", "tests")
EXCEPTIONS = ROOT / "tests" / "invariants" / "uncovered.json"
TESTS = ("tests/contracts", "tests/parity", "tests/invariants/test_money.py")
# Tests that say nothing here: of other code than is deployed here, or of the price of the code.
LEFT_OUT = {
    "tests/contracts/test_artifacts.py": "compares the committed code, which is optimised",
    "tests/contracts/test_gas.py": "ceilings of optimised code",
    "tests/contracts/court/test_court_gas.py": "ceilings of optimised code",
    "tests/contracts/court/test_draw_gas.py": "the price of a draw in optimised code",
    "tests/contracts/court/test_duty.py::TestDraw::test_walks_many_verifiers_in_one_transaction": "likewise",
    "tests/contracts/court/test_faults_punish.py::TestGas": "ceilings of optimised code",
    "tests/contracts/court/test_rendezvous.py::TestDraw": "thousands of draws by a harness of its own",
    "tests/contracts/court/test_jury_simulation.py": "hundreds of draws in one request, traced longer than it waits",
    "tests/contracts/test_docs.py": "reads texts alone",
    "tests/contracts/test_natspec.py": "reads texts alone",
    "tests/contracts/court/test_errors.py": "reads texts alone",
    "tests/contracts/court/test_verifier_crashes.py": "asks the contracts what their own tests ask, for three minutes",
}
SECONDS = 5400
CLIENT = re.compile(r"HTTPProvider\(((?:self\.|chain\.)?url)\)")
# How the copy compiles: as coverage_map.py does, code of any length, and no warning of it.
UNLIMITED = (
    ('{"enabled": True, "runs": 200}', repr(UNOPTIMISED)),
    ("MAX_CODE_BYTES = 24_576", "MAX_CODE_BYTES = 1_000_000"),
    ("if warnings and strict:", "if not sources:"),
)


@dataclass
class Coverage:
    """What was taken, and what is argued for."""

    all: set[Branch]
    taken: set[Branch]
    without_code: set[Branch]
    argued: Mapping[tuple[str, str, str, str], str]
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[str] = ()

    @property
    def missing(self) -> list[Branch]:
        """Taken by no test and argued for by nobody."""
        return sorted(b for b in self.all - self.taken if _key(b) not in self.argued)

    @property
    def stale(self) -> list[tuple[str, str, str, str]]:
        """Argued for although taken, or gone."""
        open_ = {_key(branch) for branch in self.all - self.taken}
        return sorted(key for key in self.argued if key not in open_)

    def print(self) -> None:
        """The table, then each open branch."""
        for name in sorted({branch.file for branch in self.all}):
            branches = {b for b in self.all if b.file == name}
            print(f"coverage: {name}: {len(branches & self.taken)} of {len(branches)} branches")
        for branch in self.missing:
            note = " (no contract holds it)" if branch in self.without_code else ""
            place = f"{branch.file}:{branch.line}: {branch.function}"
            print(f"coverage: not taken: {place}: {branch.text}: {branch.side}{note}")
        for key in self.stale:
            print(f"coverage: argued for but taken or gone: {': '.join(key)}")
        for test in self.failed:
            print(f"coverage: failed: {test}")

    def figures(self) -> dict[str, Any]:
        """What `--json` shows."""
        hit, argued = len(self.all & self.taken), len(self.all - self.taken) - len(self.missing)
        return {
            "holds": not (self.missing or self.stale or self.failed),
            "branches": len(self.all),
            "taken": hit,
            "percent": round(100 * hit / len(self.all), 2),
            "argued": argued,
            "not taken": len(self.missing),
            "stale": len(self.stale),
            "failed tests": len(self.failed),
            "traces": self.counts.get("traces", 0),
        }


def measure() -> Coverage:
    """Run the contract tests on contracts compiled for counting."""
    contracts = CoverageMap()
    _prepare(contracts)
    said = _run_tests()
    if not re.search(r"\d+ passed", said):
        raise ToolFailed(said[-2000:])
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    steps, counts = read_traces(sorted((COPY / "traces").glob("*.json")))
    everything = {side for node in contracts.nodes for side in node.sides}
    return Coverage(
        everything, contracts.taken(steps), contracts.without_code() & everything, _argued(), counts, failed
    )


def read_traces(paths: Iterable[Path]) -> tuple[dict[str, list[tuple[int, bool]]], Counter[str]]:
    """The steps of all chains together, and how many traces there were."""
    steps: dict[str, list[tuple[int, bool]]] = {}
    counts: Counter[str] = Counter()
    for path in paths:
        body = json.loads(path.read_text(encoding="utf-8"))
        counts.update(body["counts"])
        for key, found in body["steps"].items():
            steps.setdefault(key, []).extend((pc, jumped) for pc, jumped in found)
    return steps, counts


def _prepare(contracts: CoverageMap) -> None:
    """Copy the checkout, with other artifacts and another anvil."""
    shutil.rmtree(COPY, ignore_errors=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "PROTOCOL.md"):
        shutil.copy(ROOT / name, COPY / name)
    for name in ("traces", ".cache"):
        (COPY / name).mkdir()
    (COPY / ".venv").symlink_to(ROOT / ".venv")
    _link_tools(COPY / ".cache" / "tools" / "node_modules")
    # A long call takes longer to trace than a client would wait.
    for path in (COPY / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(CLIENT.sub(r'HTTPProvider(\1, {"timeout": 600})', text), encoding="utf-8")
    # What the tests compile themselves must be the same code as here.
    compiler = COPY / "scripts" / "compile_contracts.py"
    text = compiler.read_text(encoding="utf-8")
    for before, after in UNLIMITED:
        if text.count(before) != 1:
            raise ToolFailed(f"{compiler.name} has not exactly one {before!r}")
        text = text.replace(before, after)
    compiler.write_text(text, encoding="utf-8")
    for path in (COPY / ARTIFACTS.relative_to(ROOT)).glob("*.json"):
        body = contracts.artifact(TIMELOCK if path.stem == "TimelockController" else f"contracts/{path.stem}.sol")
        digest = keccak(bytes.fromhex(body["evm"]["deployedBytecode"]["object"])).hex()
        made = Artifact(path.stem, body["abi"], "0x" + body["evm"]["bytecode"]["object"], "0x" + digest)
        path.write_text(made.to_json(), encoding="utf-8")
    write_codes(contracts.codes, COPY / "codes.json")


def _link_tools(modules: Path) -> None:
    """The npm packages, with the recorder where anvil is looked for."""
    anvil = modules / "@foundry-rs" / "anvil-recording" / "bin" / "anvil"
    anvil.parent.mkdir(parents=True)
    anvil.write_text(
        f'#!/bin/sh\nexec "{ROOT}/.venv/bin/python" "{ROOT}/scripts/coverage_recorder.py" "$@"\n', encoding="utf-8"
    )
    anvil.chmod(anvil.stat().st_mode | stat.S_IXUSR)
    for path in MODULES.iterdir():
        if path.name != "@foundry-rs":
            (modules / path.name).symlink_to(path)


def _run_tests() -> str:
    """What pytest said, which can be watched in its log meanwhile."""
    real = next((MODULES / "@foundry-rs").glob("anvil-*/bin/anvil"), None)
    if real is None:
        raise ToolFailed("anvil is not installed: run scripts/bootstrap")
    environment = os.environ | {
        "PYTHONPATH": str(COPY / "sdk"),
        "RETALLY_REPO": str(COPY),
        "RETALLY_REAL_ANVIL": str(real),
        "RETALLY_CODES": str(COPY / "codes.json"),
        "RETALLY_TRACES": str(COPY / "traces"),
    }
    left_out = [f"--deselect={path}" for path in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *left_out, *TESTS]
    log = COPY / "pytest.log"
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(
            command, cwd=COPY, env=environment, timeout=SECONDS, check=False, stdout=file, stderr=subprocess.STDOUT
        )
    return log.read_text(encoding="utf-8")


def _argued() -> dict[tuple[str, str, str, str], str]:
    if not EXCEPTIONS.exists():
        return {}
    rows = json.loads(EXCEPTIONS.read_text(encoding="utf-8"))
    return {(row["file"], row["function"], row["text"], row["side"]): row["reason"] for row in rows}


def _key(branch: Branch) -> tuple[str, str, str, str]:
    row = asdict(branch)
    return row["file"], row["function"], row["text"], row["side"]


def main() -> int:
    """Measure alone, without the other deep tests."""
    coverage = measure()
    coverage.print()
    print(json.dumps({**coverage.figures(), "counts": coverage.counts}))
    return 0 if coverage.figures()["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
