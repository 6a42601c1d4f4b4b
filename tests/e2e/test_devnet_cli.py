"""`retally devnet`: one object once everything answers, and nothing left afterwards, whoever was killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from retally.devnet.control import down, processes
from retally.devnet.state import SUPERVISOR, devnet_folder

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RETALLY = [str(Path(sys.executable).with_name("retally"))]
PROMISED = {"router_url", "api_key", "model", "rpc_url", "deployment", "nodes"}


@dataclass(frozen=True)
class Shell:
    """The command with a home and an engine of the tests."""

    home: Path
    engine_url: str

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "RETALLY_HOME": str(self.home)}
        return subprocess.Popen(
            [*RETALLY, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def up(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.run("devnet", "up", "--json", "--engine-url", self.engine_url, *arguments)
        assert code == 0, err
        state: dict[str, Any] = json.loads(out)
        return state


@pytest.fixture
def shell(tmp_path: Path, engine_url: str) -> Iterator[Shell]:
    yield Shell(tmp_path, engine_url)
    down(tmp_path)


class TestUpAndDown:
    def test_prints_one_object_serves_and_leaves_nothing(self, shell: Shell) -> None:
        state = shell.up()
        assert state.keys() >= PROMISED
        assert len(state["nodes"]) == 3
        body = {"model": state["model"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {state['api_key']}"}
        answer = httpx.post(f"{state['router_url']}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert shell.up() == state, "a second up finds the first"
        assert shell.run("devnet", "status", "--json")[0] == 0
        assert shell.run("devnet", "down")[0] == 0
        assert processes(shell.home) == []
        assert shell.run("devnet", "status", "--json")[0] == 3

    def test_cleans_up_after_its_parts_were_killed(self, shell: Shell) -> None:
        state = shell.up("--nodes", "1", "--embeddings")
        assert [node["serves"] for node in state["nodes"]] == ["completions", "embeddings"]
        headers = {"authorization": f"Bearer {state['api_key']}"}
        for path, asked in (
            ("embeddings", {"input": ["Hello"]}),
            ("completions", {"prompt": "Hello", "max_tokens": 2, "provider": {"allow_unaudited": True}}),
        ):
            body = {"model": state["model"], **asked}
            answer = httpx.post(f"{state['router_url']}/v1/{path}", json=body, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
        for name in ("retally_node", "anvil", "retally.devnet.supervisor"):
            victim = next(row["pid"] for row in processes(shell.home) if name in row["command"])
            psutil.Process(victim).kill()
        assert shell.run("devnet", "down")[0] == 0
        assert processes(shell.home) == []

    def test_does_not_touch_a_process_that_inherited_the_pid(self, shell: Shell) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as innocent:
            folder = devnet_folder(shell.home)
            folder.mkdir(parents=True)
            (folder / SUPERVISOR).write_text(json.dumps({"pid": innocent.pid, "started": 1.0}))
            assert shell.run("devnet", "down")[0] == 0
            assert innocent.poll() is None
            innocent.kill()

    def test_ctrl_c_during_up_leaves_nothing(self, shell: Shell) -> None:
        with shell.start("devnet", "up", "--engine-url", shell.engine_url) as process:
            deadline = time.monotonic() + 60
            while len(processes(shell.home)) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130
        assert processes(shell.home) == []

    def test_a_failed_start_shows_the_log_and_leaves_nothing(self, shell: Shell, tmp_path: Path) -> None:
        model = tmp_path / "broken"
        model.mkdir()
        (model / "manifest.json").write_text(json.dumps({"name": "broken", "maxContext": 64, "sha256": {"gone": "00"}}))
        arguments = ("devnet", "up", "--model-dir", str(model), "--engine-url", shell.engine_url)
        code, _, err = shell.run(*arguments)
        assert code == 1
        assert "differ from its manifest" in err
        assert processes(shell.home) == []
