"""What is known about the devnet of a home folder: one file while it runs, none otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retally.devnet.processes import ProcessId
from retally.home import home_folder

STATE = "state.json"
SUPERVISOR = "supervisor.json"
PROGRESS = "progress.log"

READY = "READY"
FAILED = "FAILED"
"""First words of the last progress line."""


def devnet_folder(home: Path | None = None) -> Path:
    """The devnet's own folder in a home."""
    return ((home or home_folder()) / "devnet").resolve()


def read_state(home: Path | None = None) -> dict[str, Any] | None:
    """The running devnet of a home as `devnet up --json` printed it; None when there is none or it died."""
    folder = devnet_folder(home)
    if find_supervisor(folder) is None:
        return None
    return _read(folder / STATE)


def find_supervisor(folder: Path) -> ProcessId | None:
    """The live process that keeps the network of a folder; a stale or reused pid does not count."""
    written = _read(folder / SUPERVISOR)
    if written is None:
        return None
    supervisor = ProcessId(int(written["pid"]), float(written["started"]))
    return supervisor if supervisor.find() else None


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Replace a file at once; the devnet's keys are in it, so only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def forget(folder: Path) -> None:
    """Remove what says that a devnet runs."""
    for name in (STATE, SUPERVISOR):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found
