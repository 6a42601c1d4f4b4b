"""The tools behind `test_contracts_deep.py`: forge on this checkout, and environments of their own for other tools."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEEP = ROOT / ".cache" / "deep"
MODULES = ROOT / ".cache" / "tools" / "node_modules"
CONFIG = "tests/solidity/foundry.toml"
# Compiling for the short form: a fifth of the time, and unchanged tests are not compiled again for a changed contract.
QUICK = {
    "FOUNDRY_OPTIMIZER": "false",
    "FOUNDRY_DYNAMIC_TEST_LINKING": "true",
    "FOUNDRY_OUT": ".cache/forge/quick",
    "FOUNDRY_CACHE_PATH": ".cache/forge/quick-cache",
}


class ToolFailed(Exception):
    """A tool did not even run."""


@dataclass(frozen=True, slots=True)
class Forge:
    """forge with a profile of tests/solidity/foundry.toml; `root` is the checkout or a copy of it."""

    profile: str
    root: Path = ROOT

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of forge."""
        return call([str(forge_path()), *arguments], self.root, self.environment() | environment)

    def environment(self) -> dict[str, str]:
        """What forge, and whatever calls it, must find."""
        return {
            "FOUNDRY_CONFIG": str(self.root / CONFIG),
            "FOUNDRY_PROFILE": self.profile,
            "RETALLY_NODE_MODULES": str(MODULES),
            "PATH": f"{forge_path().parent}{os.pathsep}{os.environ['PATH']}",
        }

    def test(self) -> subprocess.CompletedProcess[str]:
        """Fuzz and invariants, as long as the profile says."""
        skipped = [word for name in ("Proofs", "ProofSetup", "OpenContracts") for word in ("--skip", name)]
        return self.run("test", "--root", ".", *skipped, **(QUICK if self.profile == "default" else {}))

    def test_with(self, path: str, before: str, after: str) -> subprocess.CompletedProcess[str]:
        """The same on a copy of the checkout in which one line of a contract is another."""
        with tempfile.TemporaryDirectory() as folder:
            copy = copy_checkout(Path(folder))
            text = (copy / path).read_text(encoding="utf-8")
            if text.count(before) != 1:
                raise ToolFailed(f"{path} has not exactly one {before!r}")
            (copy / path).write_text(text.replace(before, after), encoding="utf-8")
            return Forge(self.profile, copy).test()


def copy_checkout(folder: Path) -> Path:
    """Copy what forge needs; its tools are only linked."""
    for name in ("contracts", "tests/solidity", "scripts/locks"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "tools").symlink_to(ROOT / ".cache" / "tools")
    return folder


def forge_path() -> Path:
    """The forge that scripts/bootstrap installed."""
    found = sorted(MODULES.glob("@foundry-rs/forge-*/bin/forge"))
    if not found:
        raise ToolFailed("forge is not installed: run scripts/bootstrap")
    return found[0]


def environment_of(name: str) -> Path:
    """The Python environment of a tool, by its lock file; apart from ours, whose packages it would change."""
    lock = ROOT / "scripts" / "locks" / f"{name}.txt"
    home = DEEP / name
    stamp = home / "lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
        shutil.rmtree(home, ignore_errors=True)
        must([sys.executable, "-m", "venv", str(home)])
        must([str(home / "bin" / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(lock)])
        stamp.write_text(digest, encoding="utf-8")
    return home / "bin"


def must(command: Sequence[str]) -> None:
    """Run a command that has no reason to fail."""
    done = call(command, ROOT, {})
    if done.returncode != 0:
        raise ToolFailed(f"{' '.join(command[:4])} … failed:\n{done.stdout[-2000:]}")


def call(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and keep all that it says."""
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
