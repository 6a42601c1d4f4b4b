"""A verifier in several processes: one leads, the others work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.conftest import RunningAnvil

from retally.devnet.catalogue import CALIBRATIONS
from retally.devnet.ports import free_port

KEY = "0x" + "5a" * 32
LEASE_SECONDS = 2.0
WAIT_SECONDS = 60.0


@pytest.fixture
def config(tmp_path: Path, anvil: RunningAnvil, chain_deployment: Path, redis_url: str, model_dir: Path) -> Path:
    """The settings of a verifier with a Redis."""
    path = tmp_path / "verifier.toml"
    words = {
        "rpc_url": anvil.url, "deployment": chain_deployment, "key": KEY, "public_url": "http://verifier",
        "data_dir": tmp_path / "data", "calibration_dir": CALIBRATIONS, "redis_url": redis_url,
    }  # fmt: skip
    lines = [f'{name} = "{value}"' for name, value in words.items()]
    numbers = [f"port = {free_port()}", f"lease_seconds = {LEASE_SECONDS}", f'model_dirs = ["{model_dir}"]']
    path.write_text("\n".join([*lines, *numbers]) + "\n")
    return path


@contextmanager
def running(folder: Path, name: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process and its log."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "retally", "verifier", *words], stdout=file, stderr=file)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


def wait_for(log: Path, text: str) -> None:
    """Waits until a log says something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_one_leads_and_the_others_work(config: Path, tmp_path: Path) -> None:
    serve = ("serve", "--config", str(config))
    work = ("work", "--config", str(config), "--lane", "1")
    with running(tmp_path, "leader", *serve) as (leader, log), running(tmp_path, "worker", *work) as (worker, said):
        wait_for(log, "at http://verifier")
        with running(tmp_path, "second", *serve) as (second, complaint):
            assert second.wait(WAIT_SECONDS) == 1
            assert "is held by another process" in complaint.read_text()
            assert "verifier work" in complaint.read_text()
        wait_for(said, "on lane 1")
        port = next(line.split()[-1] for line in config.read_text().splitlines() if line.startswith("port"))
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).json()["ok"]
        assert leader.poll() is None
        assert worker.poll() is None
