"""`kill -9` before, inside and after every write and send of a verifier: no bond locked twice, no promise forgotten."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.court.crash_nodes import sent_to
from tests.contracts.court.crash_verifier import folder_of

ROOT = Path(__file__).parents[3]
WRITES = (
    "events", "seed", "finding", "audited", "lane", "verdicts", "committed", "done", "evidence", "challenge", "close",
)  # fmt: skip
WRITES_OF_EVENTS = ("node", "revoke", "commit", "case", "cursor")
TRANSACTIONS = (
    "Audits.fixSeed", "Audits.commitVerdicts", "Audits.revealVerdicts", "Audits.collectOwed", "DevAsset.approve",
    "Silence.challenge", "Silence.timeout", "Court.open", "Court.advance", "Court.execute", "Escrow.withdrawCredit",
    "Staking.withdrawCredit", "Court.withdrawCredit", "Silence.withdrawCredit",
)  # fmt: skip
STAGES = ("before:tx:store", "after:tx:store", "after:tx:submit", "after:tx:settle")
NAMED = [f"{when}:{name}" for name in WRITES for when in ("before", "inside", "after")]
NAMED += [f"inside:{name}" for name in WRITES_OF_EVENTS]
NAMED += [f"{stage}:{label}" for label in TRANSACTIONS for stage in STAGES]
NAMED += ["before:send:replay", "after:send:replay"]
POINTS = [*NAMED, *(f"random-{n}" for n in range(6))]
#: Two chains side by side, each with the life of a verifier that nobody kills, to compare with.
SHARES = {"one": POINTS[::2], "two": POINTS[1::2]}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every point's verifier, killed there and run to its end by the next one on its folder."""
    base = tmp_path_factory.mktemp("crashes")
    command = [sys.executable, "-m", "tests.contracts.court.crash_verifier"]
    running = {
        share: subprocess.Popen(
            [*command, str(base / share), *points], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for share, points in SHARES.items()
    }
    for share, process in running.items():
        printed, complaints = process.communicate(timeout=300)
        endings = [json.loads(line) for line in printed.splitlines()]
        wanted = [[point, signal.SIGKILL, 0] for point in SHARES[share]]
        assert endings == wanted, complaints[-8_000:]
        assert process.returncode == 0, complaints[-8_000:]
    return base


def end_of(base: Path, point: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A point's folder, what came of it, and what would have come of it without the kill."""
    share = next(base / share for share, points in SHARES.items() if point in points)
    folder = folder_of(share, point)
    found, unhurt = (json.loads((each / "outcome.json").read_text()) for each in (folder, share / "none"))
    return folder, found, unhurt


class TestPoints:
    @pytest.mark.parametrize("share", SHARES)
    def test_every_point_is_killed_at(self, crashed: Path, share: str) -> None:
        unhurt = json.loads((crashed / share / "none" / "outcome.json").read_text())
        assert sorted(unhurt["reached"]) == sorted(NAMED)
        assert set(unhurt["reached"].values()) == crash_points_in_code()


def crash_points_in_code() -> set[str]:
    """Where the verifier and the sender of transactions may be killed."""
    files = [*(ROOT / "verifier").rglob("*.py"), ROOT / "sdk" / "retally" / "chain" / "transactions.py"]
    calls = [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text()))]
    return {
        f"{path}:{node.lineno}"
        for path, node in calls
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point"
    }


class TestKilled:
    @pytest.mark.parametrize("point", POINTS)
    def test_acts_once_and_ends_as_rich_as_unhurt(self, crashed: Path, point: str) -> None:
        folder, found, unhurt = end_of(crashed, point)
        # One case, one challenge of a silent point, one commitment and one reveal of a commit's verdicts.
        once = {name: count for name, count in found["counts"].items() if not name.startswith("PayOwed")}
        assert once == {name: 1 for name in unhurt["counts"] if not name.startswith("PayOwed")}
        for money in ("balance", "stake", "credit", "pool"):
            assert found[money] == unhurt[money], money
        assert not (folder / "pending.json").exists()

    @pytest.mark.parametrize("point", POINTS)
    def test_keeps_its_promises_on_record(self, crashed: Path, point: str) -> None:
        folder, found, _ = end_of(crashed, point)
        sent = sent_to(folder)
        assert len({row["job"] for row in sent}) == len(sent)
        assert all(row["prepaid"] for row in sent)
        for node, (promised, owed) in found["lanes"].items():
            vouchers = [row["voucher"] for row in sent if row["node"] == node]
            assert vouchers == sorted(vouchers)
            billed = sum(row["fee"] for row in sent if row["node"] == node)
            assert owed <= billed <= max(vouchers, default=0) <= promised

    @pytest.mark.parametrize("point", POINTS)
    def test_had_each_voucher_on_record_before_it_left(self, crashed: Path, point: str) -> None:
        folder, found, _ = end_of(crashed, point)
        for node, (promised, _) in found["left"].items():
            before = [row["voucher"] for row in sent_to(folder)[: found["sent"]] if row["node"] == node]
            assert promised >= max(before, default=0)

    @pytest.mark.parametrize("label", TRANSACTIONS)
    @pytest.mark.parametrize("stage", ["after:tx:store", "after:tx:submit"])
    def test_sends_the_same_bytes_again(self, crashed: Path, stage: str, label: str) -> None:
        _, found, _ = end_of(crashed, f"{stage}:{label}")
        assert found["resent"] == [True]
