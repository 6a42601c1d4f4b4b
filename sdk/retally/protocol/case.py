"""Commits, answers, verdicts and what a case shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from retally.errors import BadRequest
from retally.protocol.eip712 import TypedMessage
from retally.protocol.encoding import (
    Address,
    Bytes32,
    address_bytes,
    address_from_bytes,
    check_fields,
    keccak,
    parse_address,
    parse_bytes32,
    parse_integer,
    parse_object,
    to_hex,
    u32,
    u96,
    u256,
)

RANGE_BYTES = 68


class VerdictKind(IntEnum):
    """What a replay says (R-10)."""

    MATCH = 1
    MISMATCH = 2
    INCONCLUSIVE = 3


@dataclass(frozen=True, slots=True)
class AnswerRequest(TypedMessage):
    """A verifier's demand for what stands behind an audit point."""

    TYPE: ClassVar[str] = "AnswerRequest(uint64 commitId,bytes32 channel,uint96 point,address verifier,uint40 deadline)"

    commit_id: int
    channel: Bytes32
    point: int
    verifier: Address
    deadline: int


@dataclass(frozen=True, slots=True)
class Verdict(TypedMessage):
    """A verifier's signed word on one receipt; two different ones for a round are a fault."""

    TYPE: ClassVar[str] = (
        "Verdict(uint64 commitId,uint16 round,bytes32 receiptDigest,address verifier,uint8 verdict,int64 logE)"
    )

    commit_id: int
    round: int
    receipt_digest: Bytes32
    verifier: Address
    verdict: int
    log_e: int


@dataclass(frozen=True, slots=True)
class Range:
    """The stretch of a channel's money line that a commit collected."""

    payer: Address
    signer: Address
    lane: int
    before: int
    after: int

    def pack(self) -> bytes:
        """The 68 bytes of the range as `Collected` carries it."""
        return (
            address_bytes(self.payer) + address_bytes(self.signer) + u32(self.lane) + u96(self.before) + u96(self.after)
        )


def pack_ranges(ranges: Iterable[Range]) -> bytes:
    """The ranges of a commit as its event carries them."""
    return b"".join(item.pack() for item in ranges)


def unpack_ranges(data: bytes) -> tuple[Range, ...]:
    """The ranges of a commit's event."""
    if len(data) % RANGE_BYTES:
        raise BadRequest(f"{len(data)} bytes are no whole number of ranges", param="ranges")
    return tuple(_unpack_range(data[i : i + RANGE_BYTES]) for i in range(0, len(data), RANGE_BYTES))


def _unpack_range(raw: bytes) -> Range:
    return Range(
        payer=address_from_bytes(raw[:20]),
        signer=address_from_bytes(raw[20:40]),
        lane=int.from_bytes(raw[40:44], "big"),
        before=int.from_bytes(raw[44:56], "big"),
        after=int.from_bytes(raw[56:68], "big"),
    )


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What the Escrow stored the hash of when a node collected."""

    id: int
    node: Address
    owner: Address
    receipts_root: Bytes32
    ranges_hash: Bytes32
    step: int
    share_ppm: int
    seed_block: int
    time: int

    def word(self) -> Bytes32:
        """The word that the Escrow keeps: keccak(abi.encode(Commit))."""
        return keccak(
            u256(self.id)
            + bytes(12)
            + address_bytes(self.node)
            + bytes(12)
            + address_bytes(self.owner)
            + self.receipts_root
            + self.ranges_hash
            + b"".join(u256(value) for value in (self.step, self.share_ppm, self.seed_block, self.time))
        )

    def to_abi(self) -> tuple[Any, ...]:
        """The tuple that a contract call takes."""
        return (
            self.id,
            self.node,
            self.owner,
            self.receipts_root,
            self.ranges_hash,
            self.step,
            self.share_ppm,
            self.seed_block,
            self.time,
        )

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of R-4."""
        return {
            "id": str(self.id),
            "node": self.node,
            "owner": self.owner,
            "receiptsRoot": to_hex(self.receipts_root),
            "rangesHash": to_hex(self.ranges_hash),
            "step": str(self.step),
            "sharePpm": self.share_ppm,
            "seedBlock": str(self.seed_block),
            "time": self.time,
        }

    @classmethod
    def from_wire(cls, value: object) -> CommitRecord:
        """The record of a JSON object."""
        wire = parse_object("commit", value)
        names = {"id", "node", "owner", "receiptsRoot", "rangesHash", "step", "sharePpm", "seedBlock", "time"}
        check_fields("commit", wire, names)
        return cls(
            id=parse_integer("id", wire["id"], 64),
            node=parse_address("node", wire["node"]),
            owner=parse_address("owner", wire["owner"]),
            receipts_root=parse_bytes32("receiptsRoot", wire["receiptsRoot"]),
            ranges_hash=parse_bytes32("rangesHash", wire["rangesHash"]),
            step=parse_integer("step", wire["step"], 96),
            share_ppm=parse_integer("sharePpm", wire["sharePpm"], 32),
            seed_block=parse_integer("seedBlock", wire["seedBlock"], 64),
            time=parse_integer("time", wire["time"], 40),
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """One drawn point that a case shows, by its receipt."""

    commit_id: int
    receipt_digest: Bytes32
    payer: Address
    fee: int

    def to_abi(self) -> tuple[Any, ...]:
        """The tuple that a contract call takes."""
        return (self.commit_id, self.receipt_digest, self.payer, self.fee)
