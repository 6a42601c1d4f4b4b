"""Counts an answer as it arrives: ids, signed chunks and receipts, by choice."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest, InvalidReceipt
from retally.job_evidence import Evidence
from retally.protocol.embeddings import bytes_of_floats, ids_of_bytes
from retally.protocol.encoding import check_integer, parse_ids, parse_integer, parse_object, parse_signature
from retally.protocol.merkle import MAX_Q, output_root
from retally.protocol.receipt import Chunk, JobReceipt, ReceiptLeaf

# A node may have made so much more than reached us before it noticed that nobody reads: half a second at 512 tokens a
# second.
TOKENS_AHEAD = 256


def _components_of(data: Any) -> list[int]:
    """The ids that vectors stand for, in the order of their inputs (R-74); raises BadRequest for what is no vector."""
    try:
        rows = {int(row["index"]): row["embedding"] for row in data}
        raw = [
            base64.b64decode(row, validate=True) if isinstance(row, str) else bytes_of_floats(row)
            for _, row in sorted(rows.items())
        ]
        return ids_of_bytes(b"".join(raw))
    except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise BadRequest(f"no vectors: {error}", param="data") from error


def _logprobs_of(value: object) -> list[int]:
    if not isinstance(value, list) or any(type(item) is not int or not 0 <= item <= MAX_Q for item in value):
        raise InvalidReceipt("R-17: q are integers of 16 bits")
    return list(value)


def _list_of(name: str, value: object) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list", param=name)
    return [parse_object(name, item) for item in value]


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
        choice = check_integer("choice", part.get("choice", 0), 16)
        if part.get("ids"):
            start = check_integer("outputFrom", part.get("outputFrom", 0), 32)
            self._take_ids(choice, start, part["ids"], part.get("q", []))
        if "chunk" in part:
            chunk = Chunk.from_wire(part["chunk"])
            yield Counted(chunk=SignedChunk(chunk, parse_signature("chunkSignature", part.get("chunkSignature"))))
        if "receipt" in part:
            yield Counted(receipt=self._take_receipt(part["receipt"], part.get("receiptSignature")))
        # An answer that broke off says in its last frame what it bills all the same.
        for item in _list_of("receipts", part.get("receipts")):
            yield Counted(receipt=self._take_receipt(item.get("receipt"), item.get("signature")))

    def take_body(self, raw: bytes) -> Iterator[Counted]:
        """Counts a plain answer as it arrived; raises BadRequest for what is none."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the answer is no JSON: {error}") from error
        for leaf in self.take_plain(parse_object("answer", body)):
            yield Counted(receipt=leaf)

    def take_plain(self, body: Mapping[str, Any]) -> list[ReceiptLeaf]:
        """Counts a plain answer."""
        part = body.get("retally")
        if not isinstance(part, Mapping):
            return []
        self._take_facts(part)
        quantised = parse_object("q", part.get("q") or {})
        for choice, ids in parse_object("ids", part.get("ids") or {}).items():
            if not choice.isdecimal() or len(choice) > 5:
                raise BadRequest("ids must be by the number of the choice", param="ids")
            self._take_ids(int(choice), 0, ids, quantised.get(choice, []))
        if body.get("object") == "list":
            ids = _components_of(body.get("data"))
            self._take_ids(0, 0, ids, [0] * len(ids))
        receipts = _list_of("receipts", part.get("receipts"))
        return [self._take_receipt(item.get("receipt"), item.get("signature")) for item in receipts]

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
        if part.get("promptTokens") is not None:
            self.prompt_tokens = check_integer("promptTokens", part["promptTokens"], 32)
        if part.get("cost") is not None:
            self.evidence.stated_cost = parse_integer("cost", part["cost"], 96)

    def _take_ids(self, choice: int, position: int, ids: object, quantised: object) -> None:
        arrived, arrived_q = list(parse_ids("ids", ids)), _logprobs_of(quantised)
        self._check_asked(choice, position + len(arrived))
        if len(arrived_q) > len(arrived):
            raise InvalidReceipt("R-17: one q for each token", len(arrived), len(arrived_q))
        known = self.evidence.ids.setdefault(choice, [])
        known_q = self.evidence.quantised.setdefault(choice, [])
        if position > len(known):
            raise InvalidReceipt("an answer has no hole", len(known), position)
        # A continuation starts at the last forwarded token: what lies beyond it was never ours to keep.
        known[position:] = arrived
        known_q[position:] = arrived_q

    def _check_asked(self, choice: int, tokens: int) -> None:
        # What was never asked for is not kept: it could fill the memory.
        asked, params = self.evidence.asked, self.evidence.params
        if asked is not None and choice >= asked.choices:
            raise InvalidReceipt("a choice that was asked", f"below {asked.choices}", choice)
        if params is not None and tokens > params.max_tokens:
            raise InvalidReceipt("maxTokens", params.max_tokens, tokens)

    def _take_receipt(self, receipt: object, signature: object) -> ReceiptLeaf:
        leaf = ReceiptLeaf(JobReceipt.from_wire(receipt), parse_signature("receiptSignature", signature))
        if leaf not in self.evidence.receipts:
            self.evidence.receipts.append(leaf)
        return leaf
