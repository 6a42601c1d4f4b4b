"""What the ledger remembers of a job, as values."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retally.protocol.job import Assignment, JobParams, JobRequest
from retally.protocol.receipt import Chunk, JobReceipt
from retally.protocol.voucher import ChannelId
from retally_node.channels import SegmentKey


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A signed request with everything its hashes stand for."""

    job_id: bytes
    request: JobRequest
    signature: bytes
    prompt: Mapping[str, Any]
    params: JobParams
    options: Mapping[str, Any]
    prompt_ids: tuple[int, ...]
    received_at: int


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One admitted piece of one answer."""

    key: SegmentKey
    segment: int
    channel: ChannelId
    assignment: Assignment
    assignment_signature: bytes
    offer_hash: bytes
    prepaid: int
    started_at: int
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A signed chunk with the tokens since the one before it."""

    chunk: Chunk
    signature: bytes
    ids: Sequence[int]
    quantised: Sequence[int]


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A signed receipt with the tokens under its root."""

    receipt: JobReceipt
    digest: bytes
    signature: bytes
    output_ids: Sequence[int] = field(repr=False)
    quantised: Sequence[int] = field(repr=False)

    @property
    def key(self) -> SegmentKey:
        """The segment that the receipt closes."""
        return SegmentKey(self.receipt.job_id, self.receipt.choice, self.receipt.output_from)

    def to_wire(self) -> dict[str, Any]:
        """The receipt and its signature as the API shows them."""
        return {"receipt": self.receipt.to_wire(), "signature": "0x" + self.signature.hex()}


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little blobs of four bytes each."""
    return array("I", ids).tobytes()


def unpack_ids(blob: bytes) -> tuple[int, ...]:
    """The ids in a blob."""
    values = array("I")
    values.frombytes(blob)
    return tuple(values)
