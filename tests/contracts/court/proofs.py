"""Claims and proofs of faults as a claimant makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi.abi import encode
from web3.contract.contract import ContractFunction

from retally.protocol import merkle
from retally.protocol.eip712 import SigningKey, TypedMessage
from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import Mined
from tests.contracts.court.transcripts import Job
from tests.contracts.court.world import Commit, World

NOBODY = bytes(32)


def pair_evidence(a: bytes, b: bytes) -> bytes:
    """Evidence of two statements."""
    return keccak(encode(["bytes32", "bytes32"], [a, b]))


class Claimant:
    """Commits to claims and proves them."""

    def __init__(self, world: World, account: str | None = None) -> None:
        self.world = world
        self.account = account or world.outsider
        self.faults = world.ledger.faults.functions

    def proves(self, call: ContractFunction) -> Mined:
        """A proof that succeeds."""
        return self.world.ledger.send(call, self.account)

    def reverts(self, error: str, call: ContractFunction) -> tuple[Any, ...]:
        """A proof that reverts."""
        return self.world.ledger.reverts(error, call, self.account)

    def conflict(self, a: Job, b: Job) -> ContractFunction:
        """Two receipts of one node for one job."""
        salt = self.world.claim(self.account, pair_evidence(a.digest, b.digest))
        return self.faults.proveConflict(a.receipt.to_abi(), a.signature, b.receipt.to_abi(), b.signature, salt)

    def statements(self, name: str, key: SigningKey, a: TypedMessage, b: TypedMessage) -> ContractFunction:
        """Two statements of a router or a verifier."""
        domain = self.world.ledger.domain
        digests = a.digest(domain), b.digest(domain)
        salt = self.world.claim(self.account, pair_evidence(*digests))
        signatures = [key.sign(digest) for digest in digests]
        return self.faults[name](a.to_abi(), signatures[0], b.to_abi(), signatures[1], salt)

    def overbilling(self, job: Job) -> ContractFunction:
        """A receipt that bills too much."""
        salt = self.world.claim(self.account, job.digest)
        return self.faults.proveOverbilling(*self._references(job), salt)

    def deviation(self, job: Job) -> ContractFunction:
        """A receipt that is not what was asked for."""
        salt = self.world.claim(self.account, job.digest)
        return self.faults.proveDeviation(*self._references(job), salt)

    def unsigned_leaf(self, commit: Commit, data: bytes, index: int, leaves: Sequence[bytes]) -> ContractFunction:
        """A leaf that is no signed receipt."""
        salt = self.world.claim(self.account, keccak(data))
        proof = merkle.prove(list(leaves), index)  # type: ignore[arg-type] # hashes of forged leaves are plain bytes
        return self.faults.proveUnsignedLeaf(commit.abi, data, index, len(leaves), proof, salt)

    def improper_leaf(self, commit: Commit, index: int) -> ContractFunction:
        """A leaf whose receipt does not belong there."""
        salt = self.world.claim(self.account, commit.tree.jobs[index].digest)
        tree = commit.tree
        return self.faults.proveImproperLeaf(commit.abi, tree.shown(index), len(tree.jobs), salt)

    def tiling(self, commit: Commit, range_index: int, places: Sequence[int]) -> ContractFunction:
        """Neighbours that do not tile."""
        tree = commit.tree
        digests = [tree.jobs[place].digest for place in places]
        padded = [*digests, NOBODY, NOBODY][:2]
        evidence = keccak(encode(["uint64", "bytes32", "bytes32"], [commit.record.id, *padded]))
        salt = self.world.claim(self.account, evidence)
        leaves = [tree.shown(place) for place in places]
        return self.faults.proveTiling(commit.abi, commit.packed, range_index, leaves, len(tree.jobs), salt)

    def _references(self, job: Job) -> tuple[Any, ...]:
        return job.receipt.to_abi(), job.signature, job.offer.to_abi(), job.request.to_abi()
