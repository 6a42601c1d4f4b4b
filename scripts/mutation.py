"""Break the contracts one line at a time and see whether the tests notice.

The mutants, their operators and their order are fixed in `mutation_operators.py`. Each runs in a copy of the checkout:
forge's short suite first, then the contract tests with -x. What came of each stands in a JSONL file, so that a run
goes on where the last one ended. `equivalents.md` beside the invariants argues for each survivor that nothing can tell
it from the original.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation_operators import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / ".cache" / "deep" / "mutants"
RESULTS = ROOT / ".cache" / "deep" / "mutants.jsonl"
EQUIVALENTS = ROOT / "tests" / "invariants" / "equivalents.md"
COPIED = ("contracts", "deployments", "scripts", "sdk", "tests")
FORGE = ROOT / ".cache" / "tools" / "node_modules" / "@foundry-rs" / "forge-linux-amd64" / "bin" / "forge"
PYTEST_SECONDS = 900
# Unbroken, the suite takes a minute at most; a mutant that loops for ever is killed by this.
FORGE_SECONDS = 240
# The artifacts' test would see every mutant, since the committed ones are those of the original; the test of the docs
# reads texts alone, which the copy lacks; the killed verifiers take three minutes and ask the contracts nothing that
# their own tests do not.
LEFT_OUT = (
    "tests/contracts/test_artifacts.py",
    "tests/contracts/test_docs.py",
    "tests/contracts/court/test_verifier_crashes.py",
)
# What the forge suite plays at all.
PLAYED = r"Escrow|Stak|Slasher|Pause|AuditPoints|SeedBlocks|Signatures|Merkle|Tiling|SumTree|Lots"
# Which tests are likely to see a mutant, the cheapest first; all the contract tests come after them.
NEAR = {
    r"Escrow": ["test_escrow_collect", "test_escrow_accounts", "test_escrow_holds", "test_escrow_signers"],
    r"Stak|Slasher": ["test_staking", "test_staking_slash", "test_slashers", "test_delays"],
    r"Pause|Delays": ["test_pause", "test_delays", "test_staking"],
    r"JurorPools|Lots|SumTree": ["court/test_juror_pools"],
    r"Rendezvous": ["court/test_rendezvous", "court/test_audits"],
    r"Court|Juries|CaseLocks|Lots|SumTree|JurorPools": [
        "court/test_court",
        "court/test_court_money",
        "court/test_court_rounds",
        "court/test_own_job",
        "court/test_court_sums",
        "court/test_epoch_stories",
        "court/test_court_edges",
    ],
    r"Audit|SeedBlocks": ["court/test_audits", "court/test_duty", "court/test_audit_edges"],
    r"Trap": ["court/test_traps"],
    r"Silence|ChallengeLocks|AtStake": ["court/test_silence", "court/test_silence_threats", "court/test_silence_edges"],
    r"Claims|Answerable|Billing|Merkle|Tiling|TokenTrees|Signatures|Outputs": [
        "court/test_faults",
        "court/test_faults_punish",
        "court/test_faults_tiling",
        "court/test_faults_receipts",
        "court/test_faults_money",
        "court/test_fault_edges",
    ],
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant: killed by something, survived, or not a mutant at all."""

    mutant: str
    line: int
    outcome: str
    by: str
    seconds: int
    commit: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mutants until the count or the time is reached, and print the rate."""
    parser = argparse.ArgumentParser(prog="scripts/mutate_contracts", description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="how many of the lot's mutants to try")
    parser.add_argument("--minutes", type=float, default=600, help="start no mutant after so many minutes")
    parser.add_argument("--only", default="", help="only files whose path matches this expression")
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    parser.add_argument("--again", action="store_true", help="try survivors of earlier runs again")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(arguments)
    chosen = [m for m in mutants(ROOT) if re.search(options.only, m.path)][: options.count]
    if options.list:
        print("\n".join(f"{m.path}:{m.line}: {m.operator}: {m.after.strip()}" for m in chosen))
        return 0
    done = _known(again=options.again)
    if any(mutant.name not in done or done[mutant.name].outcome == "undecided" for mutant in chosen):
        _copy_checkout()
        _check_baseline()
    deadline = time.monotonic() + options.minutes * 60
    # All pass the cheap stage first; what it lets through waits for the dear one.
    for stage in (play_forge, ask_pytest):
        for mutant in chosen:
            known = done.get(mutant.name)
            if known and not (known.outcome == "undecided" and stage is ask_pytest):
                continue
            if time.monotonic() > deadline:
                break
            outcome = done[mutant.name] = try_mutant(mutant, stage)
            _append(outcome)
            place = f"{mutant.path}:{mutant.line}"
            print(f"{outcome.outcome:10} {outcome.seconds:4} s  {place} {mutant.operator} ({outcome.by})", flush=True)
    return _report([done[m.name] for m in chosen if m.name in done], as_json=options.json)


def try_mutant(mutant: Mutant, stage: Callable[[Mutant], tuple[str, str]]) -> Outcome:
    """Break the copy, ask a stage whether it notices, mend the copy."""
    started = time.monotonic()
    path = COPY / mutant.path
    original = path.read_text(encoding="utf-8")
    lines = original.splitlines()
    lines[mutant.line - 1] = mutant.after
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        outcome, by = stage(mutant)
    finally:
        path.write_text(original, encoding="utf-8")
    return Outcome(mutant.name, mutant.line, outcome, by, round(time.monotonic() - started), _commit())


def play_forge(mutant: Mutant) -> tuple[str, str]:
    """The forge suite, for what it plays at all."""
    if not re.search(PLAYED, mutant.path):
        return "undecided", ""
    forge = _forge()
    if "Compiler run failed" in forge.stdout or "Compiler error" in forge.stdout:
        return "invalid", "the compiler"
    return ("undecided", "") if forge.returncode == 0 else ("killed", "forge")


def ask_pytest(mutant: Mutant) -> tuple[str, str]:
    """The contract tests, those near the mutant first."""
    before = _artifacts()
    # A mutant that leaves a variable unused is a mutant all the same.
    compiled = _run([_python(), "scripts/compile_contracts.py", "--lenient", "--using", mutant.path])
    if compiled.returncode != 0:
        return "invalid", "the compiler"
    try:
        if _artifacts() == before:
            return "invalid", "the same code"
        return _run_pytest(mutant)
    finally:
        for name, text in before.items():
            (COPY / name).write_text(text, encoding="utf-8")


def _run_pytest(mutant: Mutant) -> tuple[str, str]:
    near = [name for pattern, names in NEAR.items() if re.search(pattern, mutant.path) for name in names]
    paths = [f"tests/contracts/{name}.py" for name in dict.fromkeys(near)]
    for selection in ([p for p in paths if (COPY / p).exists()], ["tests/contracts", "tests/parity"]):
        if not selection:
            continue
        left_out = [f"--ignore={path}" for path in LEFT_OUT]
        tests = _run([_python(), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *left_out, *selection])
        if tests.returncode != 0:
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE)
            return "killed", failed.group(1) if failed else "pytest"
    return "survived", ""


def _forge() -> subprocess.CompletedProcess[str]:
    # Proofs are not run here; leaving them out saves their compilation.
    skipped = [word for name in ("Proofs", "ProofSetup", "OpenContracts") for word in ("--skip", name)]
    return _run([str(FORGE), "test", "--root", ".", "--fail-fast", *skipped], FORGE_SECONDS)


def _run(command: Sequence[str], seconds: int = PYTEST_SECONDS) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FOUNDRY_CONFIG": str(COPY / "tests/solidity/foundry.toml"),
        # Compiling without it takes a third of the time, and less where tests need not be compiled again.
        "FOUNDRY_OPTIMIZER": "false",
        "FOUNDRY_DYNAMIC_TEST_LINKING": "true",
        "PYTHONPATH": str(COPY / "sdk"),
        "RETALLY_REPO": str(COPY),
    }
    process = subprocess.Popen(
        command, cwd=COPY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        stdout, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # With the chains it started: those would run on, and keep their states on the disk.
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
        return subprocess.CompletedProcess(command, 1, "took too long", "")
    return subprocess.CompletedProcess(command, process.returncode, stdout, "")


def _check_baseline() -> None:
    forge = _forge()
    if forge.returncode != 0:
        sys.exit(f"mutation: forge fails without any mutant:\n{forge.stdout[-2000:]}")


def _copy_checkout() -> None:
    for name in COPIED:
        shutil.rmtree(COPY / name, ignore_errors=True)
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "PROTOCOL.md"):
        shutil.copy(ROOT / name, COPY / name)
    (COPY / ".cache").mkdir(exist_ok=True)
    for link, target in ((".cache/tools", ".cache/tools"), (".venv", ".venv")):
        if not (COPY / link).exists():
            (COPY / link).symlink_to(ROOT / target)


def _artifacts() -> Mapping[str, str]:
    folder = COPY / "sdk" / "retally" / "chain" / "abi"
    return {p.relative_to(COPY).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.json"))}


def _python() -> str:
    return str(ROOT / ".venv" / "bin" / "python")


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False
    ).stdout.strip()


def _known(*, again: bool) -> dict[str, Outcome]:
    if not RESULTS.exists():
        return {}
    read = [Outcome(**json.loads(line)) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {outcome.mutant: outcome for outcome in read if not (again and outcome.outcome == "survived")}


def _append(outcome: Outcome) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def _report(outcomes: Sequence[Outcome], *, as_json: bool) -> int:
    argued = EQUIVALENTS.read_text(encoding="utf-8") if EQUIVALENTS.exists() else ""
    killed = [o for o in outcomes if o.outcome == "killed"]
    survived = [o for o in outcomes if o.outcome == "survived"]
    equivalent = [o for o in survived if f"`{o.mutant}`" in argued]
    valid = len(killed) + len(survived) - len(equivalent)
    rate = len(killed) / valid if valid else 0.0
    for outcome in survived:
        print(f"survived{', argued' if outcome in equivalent else ''}: {outcome.mutant} (line {outcome.line})")
    figures = {
        "tried": len(outcomes),
        "invalid": len([o for o in outcomes if o.outcome == "invalid"]),
        "undecided": len([o for o in outcomes if o.outcome == "undecided"]),
        "equivalent": len(equivalent),
        "killed": len(killed),
        "survived": len(survived) - len(equivalent),
        "rate": round(rate, 4),
    }
    print(f"mutants: {len(killed)} of {valid} killed ({rate:.1%}); {figures}")
    if as_json:
        print(json.dumps(figures))
    return 0 if valid and rate >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
