"""A node with a customer that is killed at a named point; each point runs in a fork of its own.

`python -m tests.crash_node FOLDER POINT…` writes FOLDER/POINT/acknowledged.jsonl: all that the outside has seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from retally.chain.escrow import CollectItem
from retally.crash_points import VARIABLE, arm
from retally.protocol.voucher import Voucher
from retally_node.admission import AdmittedJob
from retally_node.answer import AnswerWriter
from tests.fakes_node import Customer, FakeCollect, World, open_world


def folder_of(base: Path, point: str) -> Path:
    """Where a point's node lives."""
    return base / point.replace(":", "-")


class DurableCollect(FakeCollect):
    """An Escrow that outlives the node: it pays again, from a file, what it has paid."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "chain.json"
        for rows, root in json.loads(self._path.read_text()) if self._path.exists() else []:
            items = [CollectItem(Voucher.from_wire(v), covered, bytes.fromhex(s)) for v, covered, s in rows]
            self.mine(items, bytes.fromhex(root))

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        calls = json.loads(self._path.read_text()) if self._path.exists() else []
        rows = [[item.voucher.to_wire(), item.covered, item.signature.hex()] for item in items]
        self._path.write_text(json.dumps([*calls, [rows, root.hex()]]))
        await super().collect(items, root)


class Witness:
    """Writes down what left the node."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "acknowledged.jsonl").open("a")

    def saw(self, kind: str, value: object) -> None:
        self._file.write(json.dumps([kind, value]) + "\n")
        self._file.flush()


async def stream(world: World, customer: Customer, witness: Witness) -> None:
    """One streamed job whose chunks are paid as they come."""
    params = customer.params(max_tokens=40, min_tokens=40)
    submission = await customer.submission(
        world.node, stream=True, cumulative=customer.counter * 400 + 200, params=params
    )
    witness.saw("submission", submission.to_wire())
    job = await world.node.admission.admit(submission)
    assert isinstance(job, AdmittedJob)
    witness.saw("voucher", [customer.lane, submission.voucher.cumulative])
    running = world.node.server.start(job)
    writer = AnswerWriter(job.record, submission.options, world.node.chat_format, "m", world.node.address)
    async for frame in running.frames():
        for body in writer.stream(frame):
            for kind in ("chunk", "receipt"):
                if kind in body["retally"]:
                    witness.saw(kind, [body["retally"][kind], body["retally"][kind + "Signature"]])
        running.delivered(frame)
        if frame.chunk is not None:
            channel = world.node.book.get(customer.channel)
            await world.node.ledger.money.keep_voucher(channel, *customer.voucher(frame.chunk.chunk.due))
            witness.saw("voucher", [customer.lane, frame.chunk.chunk.due])
    await running.closed()


async def scenario(folder: Path) -> None:
    """Two customers stream, the node collects, one streams again."""
    world = await open_world(folder, DurableCollect(folder))
    # Slow enough that a kill at a random instant never comes after the end, on however fast a machine.
    world.engine.delay_seconds = 0.01 if os.environ.get(VARIABLE, "").startswith("random") else 0.004
    witness = Witness(folder)
    first, second = Customer(), Customer(lane=8)
    await asyncio.gather(stream(world, first, witness), stream(world, second, witness))
    await world.node.settlement.settle_now()
    await stream(world, first, witness)
    await world.node.settlement.settle_now()
    await world.close()


def main() -> None:
    """Fork once a point; say how each ended."""
    base = Path(sys.argv[1])
    for point in sys.argv[2:]:
        folder = folder_of(base, point)
        folder.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            arm(point)
            asyncio.run(scenario(folder))
            os._exit(0)
        if point.startswith("random"):
            # Streams are open all the while: any instant is as good as another.
            time.sleep(random.Random(point).uniform(0.05, 0.6))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps([point, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0]), flush=True)


if __name__ == "__main__":
    main()
