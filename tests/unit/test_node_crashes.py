"""`kill -9` before, inside and after every write and send: no voucher is lost, no job paid twice, books balance."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.crash_node import DurableCollect, folder_of
from tests.fakes_node import Customer, World, open_world

from retally.errors import DuplicateJob
from retally.protocol.receipt import JobReceipt
from retally.protocol.wire import JobSubmission
from retally_node.admission import StoredAnswer

WRITES = ("offer", "admit", "voucher", "chunk", "receipt", "root", "commit", "mark")
POINTS = [f"{when}:{name}" for name in WRITES for when in ("before", "inside", "after")]
POINTS += ["before:send:collect", "after:send:collect", "none"]
POINTS += [f"random-{n}" for n in range(10)]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every point's node, dead."""
    base = tmp_path_factory.mktemp("crashes")
    command = [sys.executable, "-m", "tests.crash_node", str(base), *POINTS]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    endings = dict(json.loads(line) for line in done.stdout.splitlines())
    assert endings == {point: 0 if point == "none" else signal.SIGKILL for point in POINTS}, done.stderr
    return base


def seen(folder: Path, kind: str) -> list[Any]:
    path = folder / "acknowledged.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [value for line in lines for name, value in [json.loads(line)] if name == kind]


def check_line(world: World, customer: Customer) -> int:
    """The channel's receipts tile its money line (R-20); return where it ends."""
    records = world.node.ledger.jobs.billed_after(customer.channel.key, 0)
    ends = [0, *(record.receipt.cum_to for record in records)]
    assert [record.receipt.cum_from for record in records] == ends[:-1]
    assert world.node.channel_state(customer.channel).last_cum_to == ends[-1]
    return ends[-1]


class TestKilled:
    @pytest.mark.parametrize("point", POINTS)
    async def test_books_balance_after_restart(self, crashed: Path, point: str) -> None:
        folder = folder_of(crashed, point)
        world = await open_world(folder, DurableCollect(folder))
        customers = [Customer(), Customer(lane=8)]
        assert world.node.ledger.jobs.open_segments() == []
        for customer in customers:
            kept = [amount for lane, amount in seen(folder, "voucher") if lane == customer.lane]
            assert world.node.channel_state(customer.channel).best >= max(kept, default=0)
        self.check_shown(world, folder)
        ends = [check_line(world, customer) for customer in customers]
        await world.node.settlement.settle_now()
        for customer, end in zip(customers, ends, strict=True):
            state = world.node.channel_state(customer.channel)
            assert world.collect.paid.get(customer.channel.key, 0) == min(end, state.best)
        await self.check_not_again(world, folder)
        await world.close()

    def check_shown(self, world: World, folder: Path) -> None:
        """What left the node is on its books, to the byte."""
        for wire, signature in seen(folder, "receipt"):
            record = world.node.ledger.jobs.receipt(JobReceipt.from_wire(wire).digest(world.node.domain))
            assert record is not None
            assert "0x" + record.signature.hex() == signature
        for wire, signature in seen(folder, "chunk"):
            assert (wire, signature) in self.chunks(world)

    def chunks(self, world: World) -> list[tuple[Any, str]]:
        ledger = world.node.ledger.jobs
        jobs = {bytes.fromhex(wire["jobId"][2:]) for wire, _ in seen(world.node.settings.data_dir.parent, "chunk")}
        keys = [segment.key for job in jobs for segment in ledger.segments(job)]
        records = itertools.chain.from_iterable(ledger.chunks(key) for key in keys)
        return [(record.chunk.to_wire(), "0x" + record.signature.hex()) for record in records]

    async def check_not_again(self, world: World, folder: Path) -> None:
        """A job that was admitted is answered from the books or refused, never served twice."""
        for wire in seen(folder, "submission"):
            submission = JobSubmission.from_wire(wire)
            if world.node.ledger.jobs.job(submission.request.digest(world.node.domain)) is None:
                continue
            try:
                assert isinstance(await world.node.admission.admit(submission), StoredAnswer)
            except DuplicateJob:
                continue
