"""Processes of scripts/bench_router: pinned to a core, measured with all their children, ended for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx
import psutil

READY_SECONDS = 90.0


class Failed(Exception):
    """A process did not do what it should."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pinned:
    """One process on one core, with whatever it starts."""

    def __init__(
        self, name: str, command: Sequence[str], core: int, folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def wait_ready(self, url: str) -> None:
        """Waits until the URL answers 200."""
        ends = time.monotonic() + READY_SECONDS
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                raise Failed(f"{self.name} ended at its start, see {self.log}:\n{self.log.read_text()[-2000:]}")
            try:
                if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise Failed(f"{self.name} did not answer {url} within {READY_SECONDS:g} s, see {self.log}")

    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise Failed(f"{self.name} is gone, see {self.log}") from error

    def cpu_seconds(self) -> float:
        """Processor time of the tree, all threads, user and system."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def rss_mb(self) -> float:
        """Resident memory of the tree."""
        return sum(float(process.memory_info().rss) for process in self.tree()) / 1e6

    def stop(self) -> None:
        """Ends the tree."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
