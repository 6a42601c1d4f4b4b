"""What counts the branches of the contracts sees them in calls, failed calls, transactions and calls within calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web3 import HTTPProvider, Web3

from retally.devnet.ports import free_port
from retally.devnet.tools import anvil_path, repo_root

BRANCHING, CALLING = ("0x" + digit * 40 for digit in "ab")
# CALLDATASIZE, jump over a STOP if any, else a REVERT of nothing; and a call of that with one byte of data.
CODE = "0x36600757" + "5f5ffd" + "5b00"
CALL = "0x5f5f60015f5f73" + BRANCHING[2:] + "5af100"
REVERTED, JUMPED, ENTERED = [3, False], [3, True], [7, True]


class Recording:
    """An anvil that notes what runs."""

    def __init__(self, folder: Path) -> None:
        codes = folder / "codes.json"
        rows = [{"key": "Branching", "creation": False, "code": CODE[2:], "immutables": []}]
        codes.write_text(json.dumps(rows), encoding="utf-8")
        self.folder, port = folder, free_port()
        environment = os.environ | {
            "RETALLY_REAL_ANVIL": str(anvil_path()),
            "RETALLY_CODES": str(codes),
            "RETALLY_TRACES": str(folder),
        }
        script = str(repo_root() / "scripts" / "coverage_recorder.py")
        command = [sys.executable, script, "--host", "127.0.0.1", "--port", str(port), "--silent", "--auto-impersonate"]
        self.process = subprocess.Popen(command, env=environment)
        self.web3 = Web3(HTTPProvider(f"http://127.0.0.1:{port}"))
        deadline = time.monotonic() + 20
        while not self.web3.is_connected():
            assert time.monotonic() < deadline, "no chain answered"
            time.sleep(0.02)
        for address, code in ((BRANCHING, CODE), (CALLING, CALL)):
            self.rpc("anvil_setCode", address, code)

    def rpc(self, method: str, *params: Any) -> Any:
        """A raw answer."""
        return self.web3.provider.make_request(method, list(params))  # type: ignore[arg-type] # anvil's own methods

    def end(self) -> list[list[Any]]:
        """End it and read what it saw of the branching code."""
        self.process.terminate()
        self.process.wait(timeout=20)
        (path,) = self.folder.glob(f"{self.process.pid}.json")
        found: list[list[Any]] = json.loads(path.read_text(encoding="utf-8"))["steps"].get("Branching", [])
        return found


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    """One of its own."""
    made = Recording(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


class TestRecorder:
    def test_sees_a_call_that_reverts(self, recording: Recording) -> None:
        assert "error" in recording.rpc("eth_call", {"to": BRANCHING}, "pending")
        assert recording.end() == [REVERTED]

    def test_sees_an_estimate_that_fails(self, recording: Recording) -> None:
        assert "error" in recording.rpc("eth_estimateGas", {"to": BRANCHING})
        assert recording.end() == [REVERTED]

    def test_sees_calls_within_calls(self, recording: Recording) -> None:
        assert "result" in recording.rpc("eth_call", {"to": CALLING}, "latest")
        assert recording.end() == [JUMPED, ENTERED]

    def test_sees_a_transaction_whose_block_is_undone(self, recording: Recording) -> None:
        sender = recording.rpc("eth_accounts")["result"][0]
        snapshot = recording.rpc("evm_snapshot")["result"]
        recording.rpc("eth_sendTransaction", {"from": sender, "to": BRANCHING, "data": "0x00", "gas": "0x10000"})
        recording.rpc("evm_revert", snapshot)
        assert recording.end() == [JUMPED, ENTERED]

    def test_sees_nothing_of_other_code(self, recording: Recording) -> None:
        recording.rpc("anvil_setCode", BRANCHING, CODE + "00")
        recording.rpc("eth_call", {"to": BRANCHING}, "latest")
        assert recording.end() == []
