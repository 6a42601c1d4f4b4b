"""A worker of a verifier with a judge that writes down what it does; `python -m tests.verifier_worker` is one process.

A file named `hang` in the folder makes it stop in the middle of its next point, one named `poison` in the first one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Collection
from pathlib import Path

from redis.asyncio import Redis

from retally.protocol.answer import AnswerContext
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, keccak
from retally_verifier.judge_point import Judged, Outcome, PointJudge, Unanswered, Weight
from retally_verifier.point_stream import PointStream
from retally_verifier.records import FindingState
from retally_verifier.shared_work import Worker

DOMAIN = Domain(31337, SigningKey(keccak(b"escrow")).address)
VERIFIER = SigningKey(keccak(b"verifier")).address
IDLE_SECONDS = 1.2


class WritingJudge(PointJudge):
    """Judges at once, or stops in the middle; every point that it begins and ends is a line of a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    async def judge(self, context: AnswerContext, seed: bytes, last: Collection[Address]) -> Outcome:
        point = context.point
        self._write("begins", point.k)
        if (self._folder / "hang").exists() or (point.k == 0 and (self._folder / "poison").exists()):
            await asyncio.sleep(3_600)
        await asyncio.sleep(0.01)
        self._write("ends", point.k)
        if (self._folder / "silent").exists() and point.k == 1:
            return Unanswered("this node shows nothing", "node_unavailable")
        detail = {"by": self._name, "last": list(last), "seed": seed.hex()}
        digest = keccak(f"{context.commit.id} {point.k}".encode())
        return Judged(Weight(FindingState.REPLAYED, 1, -0.5, detail), digest, 7, b"{}")

    def _write(self, what: str, k: int) -> None:
        with (self._folder / "judged.jsonl").open("a") as file:
            file.write(json.dumps([what, self._name, k]) + "\n")


async def main(url: str, folder: Path, name: str) -> None:
    """Works until it is killed."""
    async with Redis.from_url(url) as redis:
        stream = PointStream(redis, VERIFIER)
        worker = Worker(stream, WritingJudge(folder, name), DOMAIN, name, at_once=2, idle_seconds=IDLE_SECONDS)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
