"""`kill -9` before, inside and after every write and send of a verifier: no bond locked twice, no promise forgotten."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from retally.chain.calibrations import Calibrations
from retally.chain.registry import Registry
from retally.chain.rpc import Rpc
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address
from retally.protocol.pricing import max_fee
from retally_verifier.records import NodeRecord
from retally_verifier.replay import Replayer
from retally_verifier.store import Store
from tests.contracts.court.crash_ground import KEY
from tests.contracts.court.crash_nodes import FakeNodes, sent_to
from tests.contracts.court.crash_verifier import folder_of
from tests.contracts.court.transcripts import MODEL, PRICES, PROFILE
from tests.contracts.court.world import key
from tests.fakes_world import FakeClock

PROMISED = 500
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
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[str]] = {}
        for share, points in SHARES.items():
            words = [*command, str(base / share), *points]
            process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            running[share] = stack.enter_context(process)
            # Whatever one of them fails at, the other must not go on.
            stack.callback(process.kill)
        said = {share: process.communicate(timeout=600) for share, process in running.items()}
    for share, (printed, complaints) in said.items():
        endings = [json.loads(line) for line in printed.splitlines()]
        assert endings == [[point, signal.SIGKILL, 0] for point in SHARES[share]], complaints[-8_000:]
        assert running[share].returncode == 0, complaints[-8_000:]
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


class BusyNodes(FakeNodes):
    """Nodes that still run the job which a dead verifier paid for."""

    def _channel(self, node: Address) -> dict[str, Any]:
        return {**super()._channel(node), "due": str(PROMISED), "open": 1}


class TestReplay:
    async def test_pays_on_top_of_what_still_runs_for_a_dead_verifier(self, tmp_path: Path) -> None:
        node, domain, clock = key("node"), Domain(31337, key("escrow").address), FakeClock()
        registry = Registry(Rpc("http://127.0.0.1:9"), key("registry").address)
        store, nodes = Store(tmp_path / "verifier.sqlite"), BusyNodes(tmp_path, domain, [node], {}, clock.now())
        found = Calibrations(registry)
        replayer = Replayer(store, nodes, registry, found, KEY, domain, clock, lane=0, replayers=2)
        store.set_lane(node.address, PROMISED, 0)
        await replayer.score(NodeRecord(node.address, KEY.address, MODEL, PROFILE, "http://node", False), [1, 2, 3], 1)
        (sent,) = sent_to(tmp_path)
        assert sent["voucher"] == PROMISED + max_fee(PRICES, prompt_tokens=3, max_output=1)
        store.close()


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
