"""Faults: what signatures alone prove."""

from __future__ import annotations

from eth_abi.abi import encode

from retally.chain.contract import Contract, ContractCall
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt


def claim_hash(claimant: Address, evidence: bytes, salt: bytes) -> Bytes32:
    """What a claimant commits before a proof, as `Faults.claimHash` computes it."""
    return keccak(encode(["address", "bytes32", "bytes32"], [claimant, evidence, salt]))


class Faults(Contract):
    """Views and calls of Faults."""

    NAME = "Faults"

    async def credit(self, account: Address) -> int:
        """What an account can withdraw."""
        return int(await self.view("credit", account))

    def commit_claim(self, hash_: bytes) -> ContractCall:
        """Commits to a claim."""
        return self.call("commitClaim", hash_)

    def prove_conflict(
        self, a: JobReceipt, signature_a: bytes, b: JobReceipt, signature_b: bytes, salt: bytes
    ) -> ContractCall:
        """Two receipts of one node for the same output."""
        return self.call("proveConflict", a.to_abi(), signature_a, b.to_abi(), signature_b, salt)

    def prove_overbilling(
        self, receipt: JobReceipt, signature: bytes, offer: Offer, request: JobRequest, salt: bytes
    ) -> ContractCall:
        """A receipt that bills more than it may."""
        args = (receipt.to_abi(), signature, offer.to_abi(), request.to_abi(), salt)
        return self.call("proveOverbilling", *args)

    def withdraw_credit(self) -> ContractCall:
        """Pays the sender its credit."""
        return self.call("withdrawCredit")
