"""Child processes that can be found and ended again, whoever was killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from retally.errors import Unavailable

MARK = "RETALLY_DEVNET_ID"
"""Environment variable that names the folder of the network a process belongs to; its children inherit it."""

GROUPS = "groups.txt"
"""File in that folder with the process groups that were started, for children that overwrite their environment."""

_LOG_TAIL_LINES = 15


class ServiceFailed(Unavailable):
    """A program of the devnet ended or did not answer in time."""

    code = "service_failed"

    def __init__(self, name: str, reason: str, log: Path) -> None:
        self.name, self.reason, self.log = name, reason, log
        super().__init__(f"{name} {reason}; the end of {log}:\n{log_tail(log)}")


@dataclass(frozen=True)
class ProcessId:
    """A pid together with its start time, so that a reused pid is not taken for the process."""

    pid: int
    started: float

    def find(self) -> psutil.Process | None:
        """The live process, unless it ended or another took its number."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class Service:
    """One program of the network: started in a process group of its own, its output in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        mark: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._mark = mark
        self._environment = dict(environment or {})
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self.id: ProcessId | None = None

    def start(self) -> None:
        """Start the program; it gets SIGTERM should this process die."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        guard = Path(__file__).with_name("parent_death.py")
        command = [sys.executable, "-I", "-S", str(guard), str(os.getpid()), *self.command]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._cwd,
                env={**os.environ, MARK: self._mark, **self._environment},
            )
        self.id = ProcessId(self._process.pid, psutil.Process(self._process.pid).create_time())
        Path(self._mark).mkdir(parents=True, exist_ok=True)
        with (Path(self._mark) / GROUPS).open("a", encoding="utf-8") as groups:
            groups.write(f"{self.id.pid} {self.id.started}\n")

    @property
    def pid(self) -> int:
        """The program's process number."""
        if self.id is None:
            raise ServiceFailed(self.name, "was not started", self.log)
        return self.id.pid

    @property
    def is_running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def check_running(self) -> None:
        """Raise with the end of its log once the program has ended."""
        if not self.is_running:
            code = self._process.returncode if self._process else None
            raise ServiceFailed(self.name, f"ended with status {code}", self.log)

    def kill(self) -> None:
        """End the program at once, as a crash would: no handler of it runs."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait()

    async def restart(self) -> None:
        """Stop what still runs and start the same program again."""
        await self.stop()
        self.start()

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """Ask the program to end, then end its whole group."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, grace_seconds)
        end_group(self._process.pid)
        self._process.wait()


def end_group(group: int) -> None:
    """Kill what is left of a process group that one of our programs led."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def end_marked(mark: str, grace_seconds: float = 5.0) -> int:
    """End every process of the network with that mark, and say how many there were."""
    found = [process for process in find_marked(mark) if process.pid != os.getpid()]
    for process in found:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=grace_seconds)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_seconds)
    return len(found)


def find_marked(mark: str) -> list[psutil.Process]:
    """Every live process of the network with that mark: by its environment, else by its process group."""
    groups = _groups(Path(mark))
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if process.environ().get(MARK) == mark or os.getpgid(process.pid) in groups:
                found.append(process)
    return found


def _groups(folder: Path) -> set[int]:
    """The groups that are still ours: a number is not given again while its group has members."""
    if not (folder / GROUPS).exists():
        return set()
    lines = (line.split() for line in (folder / GROUPS).read_text(encoding="utf-8").splitlines())
    leaders = [ProcessId(int(pid), float(started)) for pid, started in lines]
    return {leader.pid for leader in leaders if leader.find() or not psutil.pid_exists(leader.pid)}


def log_tail(log: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log, each indented."""
    if not log.exists():
        return "  (no output)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
