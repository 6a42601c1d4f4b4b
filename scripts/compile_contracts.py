"""Compile the contracts and write their artifacts to `sdk/retally/chain/abi`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import solcx
from eth_hash.auto import keccak
from solcx.exceptions import SolcError, SolcInstallationError, SolcNotInstalled

SOLC_VERSION = "0.8.37"
ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ARTIFACTS = ROOT / "sdk" / "retally" / "chain" / "abi"
NODE_MODULES = ROOT / ".cache" / "tools" / "node_modules"
SHIM = ROOT / "scripts" / "locks" / "solc.js"
TIMELOCK = "@openzeppelin/contracts/governance/TimelockController.sol"
MAX_CODE_BYTES = 24_576  # EIP-170
IMPORT = re.compile(r'^\s*import\s[^"\']*["\']([^"\']+)["\'];', re.MULTILINE)
SETTINGS: dict[str, Any] = {
    "optimizer": {"enabled": True, "runs": 200},
    "evmVersion": "cancun",
    # Nothing of the machine or the compiler's build goes into the code: rebuilding must give the same bytes.
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
}


class CompileError(Exception):
    """The compiler refused a source, or a contract cannot be deployed."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What deploying and calling a contract takes."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: str
    deployed_bytecode_hash: str

    def to_json(self) -> str:
        """Canonical text of the artifact file."""
        body = {"abi": self.abi, "bytecode": self.bytecode, "deployedBytecodeHash": self.deployed_bytecode_hash}
        return json.dumps(body, indent=1, sort_keys=True) + "\n"


def collect_sources(entries: Iterable[str], base: Path = ROOT) -> dict[str, str]:
    """Return the text of the entry sources and of all they import, by source unit name."""
    sources: dict[str, str] = {}
    pending = list(entries)
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        path = base / name if (base / name).is_file() else NODE_MODULES / name
        if not path.is_file():
            raise CompileError(f"no such source: {name} (run scripts/bootstrap)")
        sources[name] = path.read_text(encoding="utf-8")
        for target in IMPORT.findall(sources[name]):
            relative = target.startswith(".")
            pending.append(os.path.normpath(Path(name).parent / target) if relative else target)
    return dict(sorted(sources.items()))


def resolve_solc(folder: Path) -> Path:
    """Return a compiler binary: SOLC_BINARY, one that py-solc-x has, the locked npm package, else a download."""
    configured = os.environ.get("SOLC_BINARY")
    if configured:
        return Path(configured)
    try:
        return Path(solcx.install.get_executable(SOLC_VERSION))
    except SolcNotInstalled:
        pass
    if (NODE_MODULES / "solc").is_dir() and shutil.which("node"):
        os.environ["RETALLY_NODE_MODULES"] = str(NODE_MODULES)
        # py-solc-x reads the version off the name of the file.
        return Path(shutil.copy(SHIM, folder / f"solc-v{SOLC_VERSION}"))
    try:
        solcx.install_solc(SOLC_VERSION)
    except (SolcInstallationError, ConnectionError) as error:
        raise CompileError(f"no Solidity compiler: set SOLC_BINARY or run scripts/bootstrap ({error})") from error
    return Path(solcx.install.get_executable(SOLC_VERSION))


def compile_sources(sources: Mapping[str, str], *, strict: bool = True) -> dict[str, dict[str, Artifact]]:
    """Compile and return artifacts by source unit and contract name; a warning of ours is an error where strict."""
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": SETTINGS,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = solcx.compile_standard(request, solc_binary=resolve_solc(Path(folder)))
        except SolcError as error:
            # The exception's own text repeats the whole output of the compiler.
            raise CompileError(error.message) from None
    warnings = [e for e in output.get("errors", []) if not e["sourceLocation"]["file"].startswith(("@", "solady"))]
    if warnings and strict:
        raise CompileError("\n".join(e["formattedMessage"] for e in warnings))
    return {
        unit: {name: _artifact(name, body) for name, body in contracts.items()}
        for unit, contracts in output["contracts"].items()
    }


def compile_layout(sources: Mapping[str, str], unit: str, name: str) -> list[dict[str, Any]]:
    """The state variables of a contract with their slots."""
    settings = {**SETTINGS, "outputSelection": {unit: {name: ["storageLayout"]}}}
    request = {
        "language": "Solidity",
        "sources": {source: {"content": text} for source, text in sources.items()},
        "settings": settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        output = solcx.compile_standard(request, solc_binary=resolve_solc(Path(folder)))
    found: list[dict[str, Any]] = output["contracts"][unit][name]["storageLayout"]["storage"]
    return found


def _artifact(name: str, body: Mapping[str, Any]) -> Artifact:
    deployed = bytes.fromhex(body["evm"]["deployedBytecode"]["object"])
    if len(deployed) > MAX_CODE_BYTES:
        raise CompileError(f"{name} has {len(deployed)} bytes of code, more than {MAX_CODE_BYTES}")
    return Artifact(name, body["abi"], "0x" + body["evm"]["bytecode"]["object"], "0x" + keccak(deployed).hex())


def compile_contracts(using: str | None = None, *, strict: bool = True) -> dict[str, Artifact]:
    """Compile everything that is deployed, or the part of it into which one source goes."""
    entries = [*(f"contracts/{path.name}" for path in sorted(CONTRACTS.glob("*.sol"))), TIMELOCK]
    if using is not None:
        entries = [entry for entry in entries if using in collect_sources([entry])]
    compiled = compile_sources(collect_sources(entries), strict=strict)
    return {Path(unit).stem: compiled[unit][Path(unit).stem] for unit in entries}


def main() -> None:
    """Write the artifact files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--using", metavar="SOURCE", help="only contracts into which contracts/… goes")
    parser.add_argument("--lenient", action="store_true", help="warnings are no errors")
    options = parser.parse_args()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    artifacts = compile_contracts(options.using, strict=not options.lenient)
    if options.using is None:
        for stale in set(ARTIFACTS.glob("*.json")) - {ARTIFACTS / f"{name}.json" for name in artifacts}:
            stale.unlink()
    for name, artifact in artifacts.items():
        (ARTIFACTS / f"{name}.json").write_text(artifact.to_json(), encoding="utf-8")
        print(f"{name}: {len(artifact.bytecode) // 2 - 1} bytes to deploy")


if __name__ == "__main__":
    main()
