"""An engine that this node starts and ends, tied to the node's own life."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from retally.errors import EngineUnavailable
from retally.inference.vllm_flags import SERVER_MODULE, engine_arguments, engine_environment

STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


def vllm_command(model_dir: Path, name: str, port: int, max_context: int, *, embeds: bool = False) -> list[str]:
    """The command that starts vLLM with the profile's flags."""
    flags = engine_arguments(model_dir, name, port, max_context=max_context, is_cpu=not has_gpu(), embeds=embeds)
    return [sys.executable, "-m", SERVER_MODULE, *flags]


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


class EngineProcess:
    """A child process; when the node is killed, the kernel ends the engine too."""

    def __init__(self, command: Sequence[str], log_path: Path, *, is_exact: bool = False) -> None:
        self._command = list(command)
        self._log_path = log_path
        self._is_exact = is_exact
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the engine; its output goes to a file."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdout=output,
                stderr=output,
                env=engine_environment(os.environ, is_cpu=not has_gpu(), is_exact=self._is_exact),
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def check_alive(self) -> None:
        """Raise EngineUnavailable if the engine has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise EngineUnavailable(
                f"the engine ended with status {self._process.returncode}", hint=f"read {self._log_path}"
            )

    async def stop(self) -> None:
        """End the engine and its children."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
