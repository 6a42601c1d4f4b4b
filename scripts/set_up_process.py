"""How the set-up runs pip and other tools: quietly, with signs of life, and with a hint when one fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PROGRESS_SECONDS = 10.0


class SetupError(Exception):
    """A step that cannot go on; the text says what to do about it."""


def installed_names() -> set[str]:
    """The names of what the environment holds."""
    command = [str(PYTHON), "-m", "pip", "list", "--format=freeze"]
    return {
        name_of(line)
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    }


def name_of(requirement: str) -> str:
    """The normalised name before the pin."""
    return requirement.split("==")[0].strip().lower().replace("_", "-").replace(".", "-")


def pip(arguments: Sequence[str], total: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `pip install` with a sign of life every few seconds, and keep what it said."""
    command = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    said: list[str] = []
    seen, last = 0, time.monotonic()
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            seen += "Collecting " in line or "Requirement already" in line
            unpacking = line.startswith("Installing collected packages")
            if total and (unpacking or time.monotonic() - last > PROGRESS_SECONDS):
                print("      unpacking all of them" if unpacking else f"      {seen} of {total} fetched", flush=True)
                last = time.monotonic()
    return subprocess.CompletedProcess(command, process.returncode, "".join(said), "")


def call(command: Sequence[str], failure: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a tool quietly; when it fails, its last words follow ours."""
    found = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if found.returncode:
        raise SetupError(f"{failure}. {network_hint(found.stdout)}")


def network_hint(output: str) -> str:
    """Tell a missing network from a missing package, and quote the tool."""
    signs = (
        "NewConnectionError",
        "Temporary failure in name resolution",
        "EAI_AGAIN",
        "ENOTFOUND",
        "ECONNREFUSED",
        "Network is unreachable",
        "timed out",
    )
    cause = (
        "The network is out of reach: check the connection or the proxy settings, then run this again."
        if any(sign in output for sign in signs)
        else "The tool said:"
    )
    text = output.strip()
    quoted = text if len(text) < 1500 else f"{text[:700]}\n  […]\n{text[-700:]}"
    return f"{cause}\n{quoted}"
