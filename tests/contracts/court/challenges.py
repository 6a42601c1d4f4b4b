"""A challenge of a drawn point and the parts of its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import pack
from typing import Any

from eth_abi.abi import encode

from retally.protocol.audit_points import AuditPoint
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt
from tests.contracts.court.ledger import MILLION, PARAMETERS
from tests.contracts.court.transcripts import Job
from tests.contracts.court.world import STAKE, Commit, World

BOND, FEE, FEE_PER_KILOBYTE, TIP = PARAMETERS["silence"][:4]
SEVERITY = STAKE * 300_000 // MILLION
OPEN, ANSWERED, SLASHED = 1, 2, 3


def struct_type(type_string: str) -> str:
    """The ABI tuple of an EIP-712 type."""
    return "(" + ",".join(re.findall(r"[(,](\w+) ", type_string)) + ")"


HEAD = (
    f"({struct_type(JobReceipt.TYPE)},bytes,uint32,uint32,bytes32[],{struct_type(JobRequest.TYPE)},bytes,bytes,bytes,"
    f"{struct_type(Offer.TYPE)})"
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge of the first drawn point of a commit."""

    world: World
    commit: Commit
    point: AuditPoint
    id: bytes

    @property
    def job(self) -> Job:
        """The job that covers the point."""
        covers = [j for j in self.commit.tree.jobs if j.receipt.cum_from <= self.point.point < j.receipt.cum_to]
        return covers[0]

    @property
    def record(self) -> tuple[Any, ...]:
        """challenger, deadline, status, byPayer, tree, done, …"""
        return tuple(self.world.ledger.silence.functions.challengeOf(self.id).call())

    @property
    def deadline(self) -> int:
        """When silence becomes a fault."""
        return int(self.record[1])

    @property
    def status(self) -> int:
        """Where it stands."""
        return int(self.record[2])

    def head(self, job: Job | None = None, **changes: Any) -> bytes:
        """The first part of the answer, with some fields changed by their place."""
        fields = list((job or self.job).head(self.commit.tree))
        for place, value in changes.items():
            fields[int(place.removeprefix("field_"))] = value
        return encode([HEAD], [tuple(fields)])

    def answer(self, data: bytes, sender: str | None = None) -> Any:
        """Post a part."""
        call = self.world.ledger.silence.functions.answer(self.id, data)
        return self.world.ledger.send(call, sender or self.world.cheat)

    def reverts(self, error: str, data: bytes, sender: str | None = None) -> tuple[Any, ...]:
        """A part that is refused."""
        call = self.world.ledger.silence.functions.answer(self.id, data)
        return self.world.ledger.reverts(error, call, sender or self.world.cheat)

    def credit(self, account: str) -> int:
        """What an account may withdraw."""
        return int(self.world.ledger.silence.functions.credit(account).call())


def packed_ids(ids: tuple[int, ...]) -> bytes:
    """Token ids of a part."""
    return b"".join(pack(">I", token) for token in ids)


def packed_output(job: Job, start: int = 0, end: int | None = None) -> bytes:
    """Output tokens of a part: each chunk's ids, then its quantised logprobs."""
    ids, quantised = job.output_ids[start:end], job.output_q[start:end]
    chunks = [
        packed_ids(ids[i : i + 32]) + b"".join(pack(">H", q) for q in quantised[i : i + 32])
        for i in range(0, len(ids), 32)
    ]
    return b"".join(chunks)


def challenge(world: World, commit: Commit, sender: str | None = None, which: int = 0) -> Challenge:
    """Challenge a drawn point."""
    point = world.points(commit)[which]
    call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, point.range_index, point.k)
    event = world.ledger.send(call, sender or world.challenger).event("Challenged")
    assert event["point"] == point.point
    return Challenge(world, commit, point, event["challengeId"])
