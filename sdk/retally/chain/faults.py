"""Faults: what a signature or a tree proves by itself, claimed, proven and punished (R-50 to R-52)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from eth_abi.abi import encode

from retally.chain.contract import Contract, ContractCall
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.job import JobParams, JobRequest, canonical_json
from retally.protocol.offer import Offer
from retally.protocol.receipt import ReceiptLeaf

_MAX_TOKENS = b'"maxTokens":'


class Tree(IntEnum):
    """Which of a receipt's trees is counted."""

    PROMPT = 0
    PREFIX = 1
    OUTPUT = 2


def claim_hash(claimant: Address, evidence: bytes, salt: bytes) -> Bytes32:
    """What is committed before a proof (R-50)."""
    return keccak(encode(["address", "bytes32", "bytes32"], [claimant, evidence, salt]))


class Faults(Contract):
    """Calls of Faults; `bound` says that the (first) receipt was shown to stand under a commit."""

    NAME = "Faults"

    def commit_claim(self, hash_: bytes) -> ContractCall:
        """Commits to a proof that only this sender can give in a later block."""
        return self.call("commitClaim", hash_)

    def bind_leaf(
        self, commit: CommitRecord, held: ReceiptLeaf, index: int, proof: Sequence[bytes], leaf_count: int
    ) -> ContractCall:
        """Shows that a receipt stands under a commit, so that it binds the owner wholly."""
        shown = (held.receipt.to_abi(), held.signature, index, list(proof))
        return self.call("bindLeaf", commit.to_abi(), shown, leaf_count)

    async def is_bound(self, digest: bytes) -> bool:
        """Whether somebody showed that already."""
        return int(str(await self.view("boundOwner", digest)), 16) != 0

    def prove_conflict(self, a: ReceiptLeaf, b: ReceiptLeaf, salt: bytes) -> ContractCall:
        """Two receipts for one output of a job."""
        return self.call("proveConflict", *_signed(a), *_signed(b), False, salt)

    def prove_double_money(self, a: ReceiptLeaf, b: ReceiptLeaf, salt: bytes, *, bound: bool) -> ContractCall:
        """Two receipts for the same money of a channel."""
        return self.call("proveDoubleMoney", *_signed(a), *_signed(b), bound, salt)

    def prove_deviation(
        self, held: ReceiptLeaf, offer: Offer, request: JobRequest, salt: bytes, *, bound: bool
    ) -> ContractCall:
        """A receipt that is not of its request or offer."""
        return self.call("proveDeviation", *_signed(held), offer.to_abi(), request.to_abi(), bound, salt)

    def prove_overbilling(
        self, held: ReceiptLeaf, offer: Offer, request: JobRequest, salt: bytes, *, bound: bool
    ) -> ContractCall:
        """A receipt that bills more than offer or request allow."""
        return self.call("proveOverbilling", *_signed(held), offer.to_abi(), request.to_abi(), bound, salt)

    def prove_miscount(
        self, held: ReceiptLeaf, tree: Tree, count: int, top: bytes, salt: bytes, *, bound: bool
    ) -> ContractCall:
        """A receipt one of whose counts is not inside its tree's root."""
        return self.call("proveMiscount", *_signed(held), int(tree), count, top, bound, salt)

    def prove_early_length(
        self, held: ReceiptLeaf, offer: Offer, request: JobRequest, params: JobParams, salt: bytes, *, bound: bool
    ) -> ContractCall:
        """A receipt that says `length` where there was room."""
        preimage = canonical_json(params.to_json())
        offset = preimage.index(_MAX_TOKENS)
        references = (offer.to_abi(), request.to_abi(), preimage, offset)
        return self.call("proveEarlyLength", *_signed(held), *references, bound, salt)

    def punish(self, fault: Any) -> ContractCall:
        """Slashes for a proven fault; `fault` is what FaultProven said."""
        return self.call("punish", fault)


def _signed(held: ReceiptLeaf) -> tuple[Any, tuple[bytes, bytes]]:
    # EIP-2098: r and vs.
    return held.receipt.to_abi(), (held.signature[:32], held.signature[32:])
