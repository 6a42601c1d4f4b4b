"""Proof that a receipt lies under a commit: what was paid for can be drawn for an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from retally.errors import InvalidReceipt
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import Domain, check_signed_by
from retally.protocol.encoding import Bytes32, check_integer, parse_object, parse_signature, to_hex
from retally.protocol.merkle import leaf, verify
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.wire import parse_proof


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A receipt, a commit and the path between them."""

    leaf: ReceiptLeaf
    commit: CommitRecord
    index: int
    leaf_count: int
    proof: tuple[Bytes32, ...]

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Reads what a node shows."""
        wire = parse_object("inclusion", value)
        receipt = JobReceipt.from_wire(wire.get("receipt"))
        return cls(
            ReceiptLeaf(receipt, parse_signature("signature", wire.get("signature"))),
            CommitRecord.from_wire(wire.get("commit")),
            check_integer("index", wire.get("index"), 32),
            check_integer("leafCount", wire.get("leafCount"), 32),
            parse_proof(wire.get("proof")),
        )

    def to_wire(self) -> dict[str, Any]:
        """What a node shows."""
        return {
            "receipt": self.leaf.receipt.to_wire(),
            "signature": to_hex(self.leaf.signature),
            "commit": self.commit.to_wire(),
            "index": self.index,
            "leafCount": self.leaf_count,
            "proof": [to_hex(item) for item in self.proof],
        }


def check_inclusion(inclusion: Inclusion, domain: Domain) -> None:
    """The signed receipt stands under the commit's root (R-14, R-15); whether that commit was made, the chain says."""
    receipt, commit = inclusion.leaf.receipt, inclusion.commit
    check_signed_by(receipt.digest(domain), inclusion.leaf.signature, receipt.node)
    if receipt.node != commit.node:
        raise InvalidReceipt("a commit holds its own node's receipts", commit.node, receipt.node)
    data = leaf(inclusion.leaf.data(domain))
    count = inclusion.leaf_count
    if not verify(commit.receipts_root, data, inclusion.index, count, count, inclusion.proof):
        raise InvalidReceipt("R-15: the path leads to the commit's root", to_hex(commit.receipts_root), inclusion.index)
