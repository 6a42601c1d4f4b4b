"""Shake the contracts: long fuzzing and invariants, proofs, static analysis, mutants, coverage.

Each part prints one line, and the last line of `--json` is one object with all figures. `--only` chooses parts. The
last figures and their date stand in docs/CONTRACTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contract_coverage import measure
from deep_tests import ROOT, Forge, ToolFailed, call, environment_of
from slither_findings import untriaged

PROOFS = ("StakingProofs", "EscrowProofs")
Figures = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and say what came of each; fail if any did."""
    parts: dict[str, Callable[[argparse.Namespace], Figures]] = {
        "forge": run_forge,
        "halmos": run_halmos,
        "slither": run_slither,
        "mutants": run_mutants,
        "coverage": run_coverage,
    }
    parser = argparse.ArgumentParser(prog="scripts/test_contracts_deep", description=__doc__)
    parser.add_argument("--only", action="append", choices=parts, help="only this part; may be repeated")
    parser.add_argument("--profile", default="deep", help="forge profile: deep, or default for the short form")
    parser.add_argument("--mutants", type=int, default=120, help="how many mutants to try")
    parser.add_argument("--minutes", type=float, default=600, help="start no mutant after so many minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(arguments)
    figures: dict[str, Figures] = {}
    for name in options.only or parts:
        started = time.monotonic()
        try:
            figures[name] = parts[name](options)
        except ToolFailed as error:
            figures[name] = {"holds": False, "error": str(error)}
        text = ", ".join(f"{key} {value}" for key, value in figures[name].items())
        print(f"{name}: {text} ({time.monotonic() - started:.0f} s)", flush=True)
    if options.json:
        print(json.dumps(figures))
    return 0 if all(part["holds"] for part in figures.values()) else 1


def run_forge(options: argparse.Namespace) -> Figures:
    """Fuzz and invariants at length."""
    done = Forge(options.profile).test()
    if done.returncode != 0:
        print(done.stdout[-6000:])
    runs = [int(number) for number in re.findall(r"\(runs: (\d+), μ", done.stdout)]
    played = re.findall(r"\(runs: (\d+), calls: (\d+), reverts: (\d+)\)", done.stdout)
    return {
        "holds": done.returncode == 0 and bool(played),
        "properties": len(runs),
        "runs of each": min(runs, default=0),
        "sequences": sum(int(each[0]) for each in played),
        "moves": sum(int(each[1]) for each in played),
    }


def run_halmos(_: argparse.Namespace) -> Figures:
    """Proofs by symbolic execution."""
    binaries = environment_of("halmos")
    forge = Forge("default")
    out = ".cache/forge/proofs"
    own = {"FOUNDRY_OUT": out, "FOUNDRY_CACHE_PATH": ".cache/forge/proofs-cache"}
    solver = f"{binaries / 'python'} {ROOT / 'scripts' / 'solve_with_bitwuzla.py'}"
    limits = ["--solver-command", solver, "--solver-timeout-assertion", "600000", "--solver-threads", "1"]
    proven: list[str] = []
    failed: list[str] = []
    for contract in PROOFS:
        command = [str(binaries / "halmos"), "--root", ".", "--forge-build-out", out, "--contract", contract, *limits]
        done = call(command, ROOT, forge.environment() | own)
        # Its lines are coloured.
        said = re.sub(r"\x1b\[\d+m", "", done.stdout)
        proven += re.findall(r"\[PASS\] (\w+)", said)
        failed += re.findall(r"\[(?:FAIL|TIMEOUT|ERROR)\] (\w+)", said)
        if done.returncode != 0 and not failed:
            raise ToolFailed(said[-2000:])
    return {"holds": bool(proven) and not failed, "proven": len(proven), "not proven": failed or 0}


def run_slither(_: argparse.Namespace) -> Figures:
    """Static analysis, less what was looked at before."""
    found, new, stale = untriaged(environment_of("slither"))
    for finding in new:
        print(f"slither: not triaged: {finding}")
    for finding in stale:
        print(f"slither: triaged but gone: {finding}")
    return {"holds": not new, "findings": found, "untriaged": len(new)}


def run_mutants(options: argparse.Namespace) -> Figures:
    """Mutants of the money and court code."""
    command = [str(ROOT / "scripts" / "mutate_contracts"), "--json"]
    command += ["--count", str(options.mutants), "--minutes", str(options.minutes)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"holds": done.returncode == 0, **figures}


def run_coverage(_: argparse.Namespace) -> Figures:
    """Branches of the contracts that the tests on anvil take."""
    coverage = measure()
    coverage.print()
    return coverage.figures()


if __name__ == "__main__":
    sys.exit(main())
