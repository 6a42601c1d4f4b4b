"""`scripts/bootstrap`: each thing that can fail says what to do, and what is done is not done again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from set_up import LOCKS, Machine, SetupError, Step, check_machine, node_major, run_steps
from set_up_process import name_of, network_hint

ROOT = Path(__file__).resolve().parents[2]


GOOD = Machine(system="linux", architecture="x86_64", python=sys.executable, free_bytes=50 * 2**30, is_set_up=False)


class TestCheckMachine:
    def test_passes_on_a_good_machine(self) -> None:
        check_machine(GOOD)

    @pytest.mark.parametrize(
        ("machine", "message"),
        [
            (replace(GOOD, free_bytes=2**30), r"1\.0 GB of disk are free"),
            (replace(GOOD, python="/bin/false"), r"install python3\.\d+-venv"),
            (replace(GOOD, system="darwin"), "runs on Linux"),
            (replace(GOOD, architecture="riscv64"), "built for x86-64"),
        ],
    )
    def test_says_what_is_missing(self, machine: Machine, message: str) -> None:
        with pytest.raises(SetupError, match=message):
            check_machine(machine)

    def test_a_full_disk_does_not_matter_once_set_up(self) -> None:
        check_machine(replace(GOOD, free_bytes=0, is_set_up=True))


class TestRunSteps:
    def test_does_nothing_twice(self, tmp_path: Path) -> None:
        ran: list[str] = []
        step = Step("one", "key", lambda: True, lambda: ran.append("one"))
        changed = Step("one", "other key", lambda: True, lambda: ran.append("changed"))
        gone = Step("one", "other key", lambda: False, lambda: ran.append("gone"))
        for one in (step, step, changed, changed, gone):
            run_steps([one], tmp_path / "stamps.json", force=False)
        assert ran == ["one", "changed", "gone"]

    def test_a_failed_step_is_tried_again(self, tmp_path: Path) -> None:
        ran: list[str] = []

        def fail() -> None:
            ran.append("failed")
            raise SetupError("no")

        for _ in range(2):
            with pytest.raises(SetupError):
                run_steps([Step("one", "key", lambda: True, fail)], tmp_path / "stamps.json", force=False)
        assert ran == ["failed", "failed"]


class TestHints:
    @pytest.mark.parametrize("output", ["npm error code EAI_AGAIN", "NewConnectionError: failed"])
    def test_tells_a_missing_network(self, output: str) -> None:
        assert "network is out of reach" in network_hint(output)

    def test_quotes_the_tool_otherwise(self) -> None:
        assert "no matching distribution" in network_hint("ERROR: no matching distribution")

    def test_reads_names_of_pins(self) -> None:
        assert name_of("Typing_Extensions==4.1") == "typing-extensions"

    def test_knows_the_version_of_node(self, tmp_path: Path) -> None:
        node = tmp_path / "node"
        node.write_text("#!/bin/sh\necho v18.20.4\n")
        node.chmod(0o755)
        assert node_major(str(node)) == 18


class TestScripts:
    def test_bootstrap_without_python_says_so(self, tmp_path: Path) -> None:
        for tool in ("bash", "dirname"):
            (tmp_path / tool).symlink_to(shutil.which(tool) or "/bin/false")
        environment = {"PATH": str(tmp_path), "RETALLY_PYTHON": str(tmp_path / "none")}
        command = [str(tmp_path / "bash"), str(ROOT / "scripts" / "bootstrap")]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert found.returncode == 1
        assert "Python 3.11 or 3.12 is needed" in found.stderr

    def test_the_lock_pins_every_package_and_no_address(self) -> None:
        lines = [line for line in (LOCKS / "cpu.txt").read_text().splitlines() if not line.startswith("#")]
        assert all(line.count("==") == 1 for line in lines)
        assert "resolved" not in (LOCKS / "package-lock.json").read_text()
