"""Starting a devnet in the background, asking about it, and ending it whatever state it is in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from retally.devnet.options import UpOptions
from retally.devnet.processes import GROUPS, MARK, end_marked, find_marked, log_tail
from retally.devnet.state import FAILED, PROGRESS, READY, STATE, devnet_folder, find_supervisor, forget, read_state
from retally.errors import Unavailable

_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1


class DevnetFailed(Unavailable):
    """The devnet did not come up."""

    code = "devnet_failed"


def up(home: Path, options: UpOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Start the devnet of a home unless it runs, and return its summary; Ctrl-C leaves nothing behind."""
    if running := read_state(home):
        say("already running")
        return running
    folder = devnet_folder(home)
    down(home)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(folder / "logs", ignore_errors=True)
    supervisor = _launch(folder, options)
    try:
        _follow(folder, supervisor, say)
    except BaseException:
        _end(supervisor)
        down(home)
        raise
    state = read_state(home)
    if state is None:
        raise DevnetFailed("the devnet ended right after its start", hint=f"see {folder / 'logs'}")
    return state


def down(home: Path) -> int:
    """End everything of the devnet; returns how many processes had to be ended, strays included."""
    folder = devnet_folder(home)
    ended = 0
    if supervisor := find_supervisor(folder):
        process = supervisor.find()
        if process is not None:
            process.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            ended = 1
    ended += end_marked(str(folder))
    (folder / GROUPS).unlink(missing_ok=True)
    forget(folder)
    return ended


def processes(home: Path) -> list[dict[str, Any]]:
    """The devnet's processes with their memory, biggest first."""
    found = []
    for process in find_marked(str(devnet_folder(home))):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline()[:4])
            found.append({"pid": process.pid, "rss_mb": process.memory_info().rss >> 20, "command": command})
    return sorted(found, key=lambda row: -int(row["rss_mb"]))


def _launch(folder: Path, options: UpOptions) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own, so that it outlives this terminal."""
    log = folder / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "retally.devnet.supervisor", str(folder), json.dumps(asdict(options))]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, MARK: str(folder)},
        )


def _follow(folder: Path, supervisor: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    """Repeat the supervisor's progress until it is ready or has failed."""
    seen = 0
    while True:
        ended = supervisor.poll() is not None
        lines = _lines(folder / PROGRESS)
        for number, line in enumerate(lines[seen:], start=seen):
            if line == READY and (folder / STATE).exists():
                return
            if line.startswith(FAILED):
                raise DevnetFailed("\n".join([line.removeprefix(FAILED).strip(), *lines[number + 1 :]]))
            say(line)
        seen = len(lines)
        if ended:
            raise DevnetFailed(f"the supervisor ended:\n{log_tail(folder / 'logs' / 'supervisor.log')}")
        time.sleep(_POLL_SECONDS)


def _lines(path: Path) -> list[str]:
    """The complete lines of a file that is still written to."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a child to end, and make it."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
