"""A receipt under a commit: the path is checked offline, the node's word is not enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes_market import DOMAIN

from retally.errors import InvalidReceipt, InvalidSignature
from retally.inclusion import Inclusion, check_inclusion
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.merkle import leaf, prove, receipts_root, sort_receipts
from retally.protocol.receipt import JobReceipt, ReceiptLeaf

NODE, PAYER = SigningKey(keccak(b"node")), SigningKey(keccak(b"payer")).address
ZERO = Bytes32(bytes(32))


def signed(number: int) -> ReceiptLeaf:
    receipt = JobReceipt(
        keccak(bytes([number])), 0, PAYER, PAYER, NODE.address, 1, 10 * number, 10 * number + 10,
        ZERO, ZERO, ZERO, ZERO, 1, 0, ZERO, 0, 1, ZERO, ZERO, ZERO, 0, 0, 0,
    )  # fmt: skip
    return ReceiptLeaf(receipt, NODE.sign(receipt.digest(DOMAIN)))


@pytest.fixture
def inclusion() -> Inclusion:
    leaves = sort_receipts([signed(number) for number in range(5)])
    commit = CommitRecord(7, NODE.address, PAYER, receipts_root(leaves, DOMAIN), ZERO, 1000, 300_000, 12, 34)
    hashes = [leaf(item.data(DOMAIN)) for item in leaves]
    return Inclusion(leaves[3], commit, 3, 5, tuple(prove(hashes, 3)))


class TestInclusion:
    def test_a_true_path_passes(self, inclusion: Inclusion) -> None:
        check_inclusion(inclusion, DOMAIN)

    def test_is_the_same_after_the_wire(self, inclusion: Inclusion) -> None:
        assert Inclusion.from_wire(inclusion.to_wire()) == inclusion

    def test_another_receipt_does_not_pass(self, inclusion: Inclusion) -> None:
        with pytest.raises(InvalidReceipt, match="R-15"):
            check_inclusion(replace(inclusion, leaf=signed(9)), DOMAIN)

    def test_another_place_does_not_pass(self, inclusion: Inclusion) -> None:
        with pytest.raises(InvalidReceipt, match="R-15"):
            check_inclusion(replace(inclusion, index=2), DOMAIN)

    def test_a_commit_of_another_node_does_not_pass(self, inclusion: Inclusion) -> None:
        with pytest.raises(InvalidReceipt, match="own node"):
            check_inclusion(replace(inclusion, commit=replace(inclusion.commit, node=PAYER)), DOMAIN)

    def test_an_unsigned_receipt_does_not_pass(self, inclusion: Inclusion) -> None:
        forged = ReceiptLeaf(inclusion.leaf.receipt, SigningKey(keccak(b"x")).sign(bytes(32)))
        with pytest.raises(InvalidSignature):
            check_inclusion(replace(inclusion, leaf=forged), DOMAIN)
