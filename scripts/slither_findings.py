"""What slither finds in the contracts, compared with what was looked at before (tests/solidity/slither_triage.json)."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from deep_tests import CONFIG, ROOT, Forge, ToolFailed, call, copy_checkout

TRIAGE = ROOT / "tests" / "solidity" / "slither_triage.json"
# slither takes a library for an enum that an interface of the same contract declares under the same name, and dies.
# A function that it cannot read is left out and reported, like a finding, instead of ending the analysis.
DRIVER = """
import sys
from slither.core.declarations.function import Function
read = Function.generate_slithir_and_analyze
def careful(self):
    try:
        read(self)
    except Exception as error:
        print(f"UNREAD {self.canonical_name}", file=sys.stderr)
Function.generate_slithir_and_analyze = careful
from slither.__main__ import main
main()
"""


def untriaged(binaries: Path) -> tuple[int, list[str], list[str]]:
    """How many findings there are, those without a reason, and reasons without a finding."""
    entries: list[dict[str, Any]] = json.loads(TRIAGE.read_text(encoding="utf-8"))
    reasons = {f"{entry['check']}: {where}" for entry in entries for where in entry["where"]}
    found = findings(binaries)
    # A star stands for matters of style, whose reason is the same everywhere.
    known = {finding for finding in found if {finding, f"{finding.split(': ')[0]}: *"} & reasons}
    stale = {reason for reason in reasons - found if not reason.endswith(": *")}
    return len(found), sorted(found - known), sorted(stale)


def findings(binaries: Path) -> set[str]:
    """Each finding as `check: where`, without line numbers, which move."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_checkout(Path(folder))
        # slither looks for it at the top.
        shutil.copy(copy / CONFIG, copy / "foundry.toml")
        forge = Forge("default", copy)
        # Warnings of an unoptimised build do not matter, and it takes a third of the time.
        built = forge.run("build", "--root", ".", "--build-info", "--skip", "./tests/**", FOUNDRY_OPTIMIZER="false")
        if built.returncode != 0:
            raise ToolFailed(built.stdout[-2000:])
        report = copy / "report.json"
        command = [str(binaries / "python"), "-c", DRIVER, ".", "--compile-force-framework", "foundry"]
        command += ["--foundry-ignore-compile", "--foundry-out-directory", ".cache/forge/out"]
        command += ["--filter-paths", "node_modules|tests/", "--json", str(report)]
        done = call(command, copy, forge.environment())
        if not report.exists():
            raise ToolFailed(done.stdout[-2000:])
        listed = json.loads(report.read_text(encoding="utf-8"))["results"].get("detectors", [])
        unread = {line.removeprefix("UNREAD ") for line in done.stdout.splitlines() if line.startswith("UNREAD ")}
        return {name(finding) for finding in listed} | {f"unread: {each}" for each in unread}


def name(finding: dict[str, Any]) -> str:
    """The check and the function, contract or variable it is about."""
    element: dict[str, Any] = finding["elements"][0] if finding["elements"] else {"name": "the whole"}
    parent = (element.get("type_specific_fields") or {}).get("parent") or {}
    return f"{finding['check']}: {parent.get('name', '')}.{element['name']}".replace(": .", ": ")
