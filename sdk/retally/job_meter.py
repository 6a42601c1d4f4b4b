"""Counts an answer as it arrives: ids, signed chunks and receipts, by choice."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest, InvalidReceipt
from retally.job_evidence import Evidence
from retally.protocol.embeddings import bytes_of_floats, ids_of_bytes
from retally.protocol.encoding import parse_ids, parse_signature
from retally.protocol.merkle import output_root
from retally.protocol.receipt import Chunk, JobReceipt, ReceiptLeaf


def _components_of(data: Any) -> list[int]:
    """The ids that vectors stand for, in the order of their inputs (R-74); raises BadRequest for what is no vector."""
    try:
        rows = {int(row["index"]): row["embedding"] for row in data}
        raw = [
            base64.b64decode(row, validate=True) if isinstance(row, str) else bytes_of_floats(row)
            for _, row in sorted(rows.items())
        ]
        return ids_of_bytes(b"".join(raw))
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise BadRequest(f"no vectors: {error}", param="data") from error


@dataclass(frozen=True, slots=True)
class SignedChunk:
    """A node's signed word on a stream so far."""

    chunk: Chunk
    signature: bytes


@dataclass(frozen=True, slots=True)
class Counted:
    """What one frame brought beyond ids."""

    chunk: SignedChunk | None = None
    receipt: ReceiptLeaf | None = None


class JobMeter:
    """Adds what arrives to a job's evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.job_id: str | None = None
        self.prompt_tokens: int | None = None

    def output_tokens(self, choice: int) -> int:
        """How many tokens of a choice arrived."""
        return len(self.evidence.ids.get(choice, ()))

    @property
    def total_output_tokens(self) -> int:
        """How many tokens arrived over all choices."""
        return sum(len(ids) for ids in self.evidence.ids.values())

    def take_frame(self, frame: Mapping[str, Any]) -> Iterator[Counted]:
        """Counts one streamed frame."""
        part = frame.get("retally")
        if not isinstance(part, Mapping):
            return
        self._take_facts(part)
        choice = int(part.get("choice", 0))
        if part.get("ids"):
            self._take_ids(choice, int(part.get("outputFrom", 0)), part["ids"], part.get("q", ()))
        if "chunk" in part:
            chunk = Chunk.from_wire(part["chunk"])
            yield Counted(chunk=SignedChunk(chunk, parse_signature("chunkSignature", part.get("chunkSignature"))))
        if "receipt" in part:
            yield Counted(receipt=self._take_receipt(part["receipt"], part.get("receiptSignature")))
        # An answer that broke off says in its last frame what it bills all the same.
        for item in part.get("receipts", ()):
            yield Counted(receipt=self._take_receipt(item.get("receipt"), item.get("signature")))

    def take_plain(self, body: Mapping[str, Any]) -> list[ReceiptLeaf]:
        """Counts a plain answer."""
        part = body.get("retally")
        if not isinstance(part, Mapping):
            return []
        self._take_facts(part)
        quantised = part.get("q") or {}
        for choice, ids in (part.get("ids") or {}).items():
            self._take_ids(int(choice), 0, ids, quantised.get(choice, ()))
        if body.get("object") == "list":
            ids = _components_of(body.get("data"))
            self._take_ids(0, 0, ids, [0] * len(ids))
        return [self._take_receipt(item["receipt"], item["signature"]) for item in part.get("receipts", ())]

    def check_chunk(self, signed: SignedChunk) -> None:
        """The chunk is the node's own word on exactly what arrived."""
        chunk = signed.chunk
        if chunk.output_to != self.output_tokens(chunk.choice):
            raise InvalidReceipt("a chunk counts what arrived", self.output_tokens(chunk.choice), chunk.output_to)
        ids = self.evidence.ids.get(chunk.choice, [])[chunk.output_from :]
        quantised = self.evidence.quantised.get(chunk.choice, [])[chunk.output_from :]
        if len(ids) != len(quantised) or output_root(chunk.output_from, ids, quantised) != chunk.output_root:
            raise InvalidReceipt("R-17: a chunk's root is that of what arrived", chunk.output_from, chunk.output_to)

    def _take_facts(self, part: Mapping[str, Any]) -> None:
        if isinstance(part.get("jobId"), str):
            self.job_id = part["jobId"]
        if isinstance(part.get("promptTokens"), int):
            self.prompt_tokens = part["promptTokens"]
        if part.get("cost") is not None:
            self.evidence.stated_cost = int(part["cost"])

    def _take_ids(self, choice: int, position: int, ids: object, quantised: Any) -> None:
        arrived = list(parse_ids("ids", ids))
        known = self.evidence.ids.setdefault(choice, [])
        known_q = self.evidence.quantised.setdefault(choice, [])
        if position > len(known):
            raise InvalidReceipt("an answer has no hole", len(known), position)
        # A continuation starts at the last forwarded token: what lies beyond it was never ours to keep.
        known[position:] = arrived
        known_q[position:] = [int(value) for value in quantised]

    def _take_receipt(self, receipt: object, signature: object) -> ReceiptLeaf:
        leaf = ReceiptLeaf(JobReceipt.from_wire(receipt), parse_signature("receiptSignature", signature))
        if leaf not in self.evidence.receipts:
            self.evidence.receipts.append(leaf)
        return leaf
