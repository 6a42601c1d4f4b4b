"""The devnet's parts that need no chain and no engine: processes, ports, keys, state."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retally.devnet.configs import node_settings, router_settings
from retally.devnet.keys import derive_key, derive_secret
from retally.devnet.options import UpOptions
from retally.devnet.ports import HOST, NoFreePort, free_port, is_free
from retally.devnet.processes import MARK, ProcessId, Service, ServiceFailed, end_marked, find_marked
from retally.devnet.state import STATE, SUPERVISOR, devnet_folder, read_state, write_private
from retally_node.engine_start import check_endpoint
from retally_node.settings import NodeSettings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT_OF_SERVICE = """
import sys, time
from pathlib import Path
from retally.devnet.processes import Service
program = [sys.executable, "-c", "import time; time.sleep(60)"]
service = Service("child", program, Path(sys.argv[1]) / "log", mark=sys.argv[1])
service.start()
print(service.pid, flush=True)
time.sleep(60)
"""


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    end_marked(str(tmp_path))


class TestService:
    def test_runs_until_stopped(self, tmp_path: Path, mark: str) -> None:
        service = Service("sleeper", SLEEP, tmp_path / "log", mark=mark)
        service.start()
        assert service.is_running
        asyncio.run(service.stop())
        assert not service.is_running

    def test_says_the_end_of_its_log_when_it_ended(self, tmp_path: Path, mark: str) -> None:
        service = Service(
            "loud", [sys.executable, "-c", "raise SystemExit('out of luck')"], tmp_path / "log", mark=mark
        )
        service.start()
        assert wait_until(lambda: not service.is_running)
        with pytest.raises(ServiceFailed, match="out of luck"):
            service.check_running()

    def test_a_program_that_ignores_sigterm_is_killed(self, tmp_path: Path, mark: str) -> None:
        code = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);print('up', flush=True); time.sleep(60)"
        )
        service = Service("stubborn", [sys.executable, "-c", code], tmp_path / "log", mark=mark)
        service.start()
        assert wait_until(lambda: "up" in (tmp_path / "log").read_text())
        asyncio.run(service.stop(grace_seconds=0.2))
        assert not service.is_running

    def test_ends_when_its_parent_is_killed(self, tmp_path: Path, mark: str) -> None:
        command = [sys.executable, "-c", PARENT_OF_SERVICE, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            started = psutil.Process(child).create_time()
            # The guard becomes the program only after it has asked for the signal.
            assert wait_until(lambda: "parent_death" not in " ".join(psutil.Process(child).cmdline()))
            parent.send_signal(signal.SIGKILL)
        assert wait_until(lambda: ProcessId(child, started).find() is None)


class TestFindMarked:
    def test_finds_processes_by_their_environment(self, tmp_path: Path, mark: str) -> None:
        with subprocess.Popen(SLEEP, env={**os.environ, MARK: mark}) as process:
            assert wait_until(lambda: process.pid in [found.pid for found in find_marked(mark)])
            assert end_marked(mark) == 1
        assert find_marked(mark) == []

    def test_finds_a_worker_that_lost_its_environment_and_its_leader(self, tmp_path: Path, mark: str) -> None:
        code = (
            "import subprocess, sys, time;"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={});"
            "print('up', flush=True); time.sleep(60)"
        )
        service = Service("leader", [sys.executable, "-c", code], tmp_path / "log", mark=mark)
        service.start()
        assert wait_until(lambda: "up" in (tmp_path / "log").read_text())
        service.kill()
        assert len(find_marked(mark)) == 1
        assert end_marked(mark) == 1

    def test_leaves_another_network_alone(self, tmp_path: Path, mark: str) -> None:
        service = Service("mine", SLEEP, tmp_path / "log", mark=mark)
        service.start()
        assert end_marked(mark + "-other") == 0
        assert service.is_running
        asyncio.run(service.stop())


class TestProcessId:
    def test_a_reused_number_is_another_process(self) -> None:
        me = psutil.Process()
        assert ProcessId(me.pid, me.create_time()).find() is not None
        assert ProcessId(me.pid, me.create_time() - 60).find() is None


class TestFreePort:
    def test_takes_the_wanted_port_or_the_next(self) -> None:
        wanted = free_port()
        with socket.socket() as busy:
            busy.bind((HOST, wanted))
            busy.listen()
            assert not is_free(wanted)
            assert free_port(wanted) > wanted

    def test_gives_no_port_twice(self) -> None:
        wanted = free_port()
        assert free_port(wanted, taken=[wanted]) != wanted

    def test_says_when_all_are_taken(self) -> None:
        wanted = free_port()
        with pytest.raises(NoFreePort):
            free_port(wanted, taken=range(wanted, wanted + 1_000))


class TestKeys:
    def test_follow_from_the_seed_alone(self) -> None:
        assert derive_key(7, "payer").address == derive_key(7, "payer").address
        assert derive_key(7, "payer").address != derive_key(8, "payer").address
        assert derive_key(7, "payer").address != derive_key(7, "node1").address
        assert derive_secret(7, "node1") != derive_secret(7, "node2")


class TestState:
    def test_nothing_runs_in_an_empty_home(self, tmp_path: Path) -> None:
        assert read_state(tmp_path) is None

    def test_a_live_supervisor_vouches_for_the_state(self, tmp_path: Path) -> None:
        folder, me = devnet_folder(tmp_path), psutil.Process()
        write_private(folder / SUPERVISOR, {"pid": me.pid, "started": me.create_time()})
        write_private(folder / STATE, {"router_url": "http://127.0.0.1:1"})
        assert read_state(tmp_path) == {"router_url": "http://127.0.0.1:1"}

    @pytest.mark.parametrize("shift", [-3600.0, 3600.0])
    def test_a_stale_pid_file_does_not_count(self, tmp_path: Path, shift: float) -> None:
        folder, me = devnet_folder(tmp_path), psutil.Process()
        write_private(folder / SUPERVISOR, {"pid": me.pid, "started": me.create_time() + shift})
        write_private(folder / STATE, {})
        assert read_state(tmp_path) is None

    def test_only_the_owner_reads_it(self, tmp_path: Path) -> None:
        write_private(tmp_path / "secret.json", {"key": 1})
        assert (tmp_path / "secret.json").stat().st_mode & 0o077 == 0
        assert json.loads((tmp_path / "secret.json").read_text()) == {"key": 1}


class TestUpOptions:
    def test_a_node_for_embeddings_comes_with_an_engine_of_its_own(self, tmp_path: Path) -> None:
        options = UpOptions(nodes=2, engine_url="http://engine", embeddings=True).network(tmp_path)
        assert [(spec.name, spec.embeds) for spec in options.nodes] == [
            ("node1", False),
            ("node2", False),
            ("embedder", True),
        ]
        assert options.to_launch == {"embeddings": (options.model_dir, True)}
        plain = UpOptions(nodes=2).network(tmp_path)
        assert plain.to_launch == {"honest": (plain.model_dir, False)}
        assert not any(spec.embeds for spec in plain.nodes)

    def test_its_settings_are_those_of_such_a_node_and_it_makes_no_model_audited(self, tmp_path: Path) -> None:
        options = UpOptions(nodes=2, embeddings=True).network(tmp_path)
        where: Any = {"port": 1, "rpc_url": "http://chain", "deployment": tmp_path / "deployment.json"}
        given: list[Any] = [node_settings(options, spec, engine_url="http://e", **where) for spec in options.nodes]
        made = [NodeSettings(**each) for each in given]
        assert [each.embeds for each in made] == [False, False, True]
        for each in made:
            check_endpoint(each)
        assert router_settings(options, redis_url="redis://r", **where)["audited_owners"] == 2

    def test_scale_the_delays_of_the_network(self, tmp_path: Path) -> None:
        assert UpOptions().network(tmp_path).time_scale == 1
        assert UpOptions(time_scale=24).network(tmp_path).time_scale == 24
