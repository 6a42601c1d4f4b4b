"""The file behind a case: drawn points and their answers, and nothing that says who cheats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest, InvalidReceipt, PayloadTooLarge
from retally.protocol.answer import AnswerContext
from retally.protocol.audit_points import AuditPoint, point_of
from retally.protocol.case import CommitRecord, Range, Shown, unpack_ranges
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import (
    Address,
    Bytes32,
    check_fields,
    check_integer,
    keccak,
    parse_address,
    parse_bytes,
    parse_object,
    to_hex,
)
from retally.protocol.job import canonical_json
from retally.protocol.voucher import channel_key
from retally.protocol.wire import AnswerBundle

MAX_BYTES = 64 << 20
MAX_POINTS = 32
EPOCH_SECONDS = 28 * 86_400


def period_start(opened_at: int) -> int:
    """Where the period of a case starts: with the 4-week epoch before the one it was opened in."""
    return max(0, opened_at // EPOCH_SECONDS - 1) * EPOCH_SECONDS


@dataclass(frozen=True, slots=True)
class EvidencePoint:
    """A drawn point with its answer."""

    commit: CommitRecord
    packed_ranges: bytes
    range_index: int
    k: int
    answer: AnswerBundle

    def _range(self) -> Range:
        if keccak(self.packed_ranges) != self.commit.ranges_hash:
            raise InvalidReceipt("the commit's ranges")
        ranges = unpack_ranges(self.packed_ranges)
        if self.range_index >= len(ranges):
            raise InvalidReceipt("the commit's ranges", len(ranges), self.range_index)
        return ranges[self.range_index]

    def own_context(self, domain: Domain) -> AnswerContext:
        """The same for a payer's own job, which need not be drawn: any point of the receipt within the range."""
        item, receipt = self._range(), self.answer.receipt
        channel = channel_key(item.payer, item.signer, self.commit.node, item.lane)
        point = max(item.before, receipt.cum_from)
        if not point < min(item.after, receipt.cum_to):
            raise InvalidReceipt("being collected by this commit", (item.before, item.after), point)
        return AnswerContext(domain, self.commit, item, AuditPoint(self.range_index, channel, 0, point))

    def context(self, domain: Domain, seed: bytes) -> AnswerContext:
        """What the answer has to answer, recomputed from commit and seed; raises if no such point was drawn."""
        item = self._range()
        channel = channel_key(item.payer, item.signer, self.commit.node, item.lane)
        point = point_of(seed, channel, self.k, self.commit.step)
        if not item.before <= point < item.after:
            raise InvalidReceipt("being a drawn point", (item.before, item.after), point)
        return AnswerContext(domain, self.commit, item, AuditPoint(self.range_index, channel, self.k, point))

    def shown(self, domain: Domain) -> Shown:
        """The entry of the case for this point."""
        receipt = self.answer.receipt
        return Shown(self.commit.id, receipt.digest(domain), receipt.payer, receipt.fee)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "commit": self.commit.to_wire(),
            "ranges": to_hex(self.packed_ranges),
            "rangeIndex": self.range_index,
            "k": self.k,
            "answer": self.answer.to_wire(),
        }

    @classmethod
    def from_wire(cls, value: object) -> EvidencePoint:
        """The point of a JSON object."""
        wire = parse_object("point", value)
        check_fields("point", wire, {"commit", "ranges", "rangeIndex", "k", "answer"})
        return cls(
            CommitRecord.from_wire(wire["commit"]),
            parse_bytes("ranges", wire["ranges"]),
            check_integer("rangeIndex", wire["rangeIndex"], 32),
            check_integer("k", wire["k"], 53),
            AnswerBundle.from_wire(wire["answer"]),
        )


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """All points that a case shows, in the order of its entries."""

    chain_id: int
    owner: Address
    points: tuple[EvidencePoint, ...]

    def to_bytes(self) -> bytes:
        """The file."""
        points = [point.to_wire() for point in self.points]
        return canonical_json({"version": 1, "chainId": self.chain_id, "owner": self.owner, "points": points})

    @property
    def hash(self) -> Bytes32:
        """What the case names the file by."""
        return keccak(self.to_bytes())

    def shown(self, domain: Domain) -> tuple[Shown, ...]:
        """The entries of the case."""
        return tuple(point.shown(domain) for point in self.points)

    @classmethod
    def from_bytes(cls, data: bytes) -> EvidenceFile:
        """The file of its bytes; strict, and bounded in size."""
        if len(data) > MAX_BYTES:
            raise PayloadTooLarge(MAX_BYTES)
        try:
            wire = parse_object("evidence", json.loads(data))
        except (ValueError, RecursionError) as error:
            raise BadRequest("the evidence file is no JSON") from error
        check_fields("evidence", wire, {"version", "chainId", "owner", "points"})
        points = wire["points"]
        if wire["version"] != 1 or not isinstance(points, list) or not 0 < len(points) <= MAX_POINTS:
            raise BadRequest("the evidence file has another version, or too many points")
        return cls(
            check_integer("chainId", wire["chainId"], 53),
            parse_address("owner", wire["owner"]),
            tuple(EvidencePoint.from_wire(point) for point in points),
        )


def shown_points(
    file: EvidenceFile, drawn: Sequence[tuple[int, AuditPoint]], domain: Domain
) -> dict[Bytes32, list[AuditPoint]]:
    """Which drawn points (with their commit ids) each shown receipt covers."""
    covered: dict[Bytes32, list[AuditPoint]] = {}
    for entry in file.points:
        receipt = entry.answer.receipt
        covered[receipt.digest(domain)] = [
            point
            for commit_id, point in drawn
            if commit_id == entry.commit.id
            and point.channel == receipt.channel.key
            and receipt.cum_from <= point.point < receipt.cum_to
        ]
    return covered
