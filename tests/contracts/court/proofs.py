"""Claims and proofs of faults as a claimant makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from eth_abi.abi import encode
from web3.contract.contract import ContractFunction

from retally.protocol import merkle
from retally.protocol.eip712 import SigningKey, TypedMessage
from retally.protocol.encoding import Bytes32, keccak, u32
from retally.protocol.job import canonical_json
from retally.protocol.receipt import Chunk
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import Commit, World

NOBODY = bytes(32)
MAX_TOKENS = b'"maxTokens":'
NO_LEAF: tuple[bytes, list[bytes]] = (b"", [])


class Kind(IntEnum):
    """The objective faults, as the contracts count them."""

    CONFLICT = 0
    BROKEN_CHUNK = 1
    OVERBILLING = 2
    DEVIATION = 3
    MISCOUNT = 4
    EARLY_LENGTH = 5
    LEAF = 6
    TILING = 7
    LATE_LEAF = 8
    ASSIGNMENTS = 9
    VERDICTS = 10
    DOUBLE_MONEY = 11


class TokenTree(IntEnum):
    """The trees whose roots a receipt states with a count of its own."""

    PROMPT = 0
    PREFIX = 1
    OUTPUT = 2


@dataclass(frozen=True, slots=True)
class Punished:
    """A fault that was proven and punished, and what both cost."""

    fault: tuple[Any, ...]
    slashed: int
    refunded: int
    proof_gas: int
    punish_gas: int

    @property
    def kind(self) -> Kind:
        """What was proven."""
        return Kind(self.fault[0])

    @property
    def owner(self) -> str:
        """Whose stake paid."""
        return str(self.fault[1])

    @property
    def key(self) -> int:
        """The hot key whose signatures alone proved it, as a number; zero if a commit did."""
        return int(self.fault[2], 16)

    @property
    def subject(self) -> bytes:
        """What it can't be proven about again."""
        return bytes(self.fault[4])


def pair_evidence(a: bytes, b: bytes) -> bytes:
    """Evidence of two statements."""
    return keccak(encode(["bytes32", "bytes32"], [a, b]))


def chunk_of(job: Job, tokens: int, **changes: Any) -> Chunk:
    """What the node signed when `tokens` of the job's segment were out."""
    receipt = job.receipt
    fields: dict[str, Any] = {
        "job_id": receipt.job_id,
        "choice": receipt.choice,
        "segment": 0,
        "node": receipt.node,
        "output_from": receipt.output_from,
        "output_to": receipt.output_from + tokens,
        "output_root": merkle.output_root(receipt.output_from, job.output_ids[:tokens], job.output_q[:tokens]),
        "due": receipt.cum_to,
    }
    return Chunk(**(fields | changes))


def output_leaves(first: int, ids: Sequence[int], quantised: Sequence[int]) -> list[bytes]:
    """The data of an output tree's leaves."""
    leaves = []
    for start in range(0, len(ids), merkle.CHUNK):
        part = slice(start, start + merkle.CHUNK)
        tokens = b"".join(u32(token) for token in ids[part])
        leaves.append(u32(first + start) + tokens + b"".join(q.to_bytes(2, "big") for q in quantised[part]))
    return leaves


def output_leaf(first: int, ids: Sequence[int], quantised: Sequence[int], index: int) -> tuple[bytes, list[bytes]]:
    """A leaf of an output tree and its path."""
    leaves = output_leaves(first, ids, quantised)
    if index >= len(leaves):
        return NO_LEAF
    return leaves[index], list(merkle.prove([merkle.leaf(data) for data in leaves], index))


def top_of(leaves: Sequence[bytes]) -> bytes:
    """The last node of a tree, which its root seals with a count."""
    nodes = list(leaves)
    while len(nodes) > 1:
        pairs = [keccak(b"\x01" + nodes[i] + nodes[i + 1]) for i in range(0, len(nodes) - 1, 2)]
        nodes = pairs + ([nodes[-1]] if len(nodes) % 2 else [])
    return nodes[0] if nodes else NOBODY


def sealed(count: int, top: bytes) -> Bytes32:
    """The root over a tree's last node, with any count."""
    return keccak(b"\x02" + u32(count) + top)


def halves(signature: bytes) -> tuple[bytes, bytes]:
    """r and vs of an EIP-2098 signature."""
    return signature[:32], signature[32:]


def ids_leaves(ids: tuple[int, ...]) -> list[bytes]:
    """Leaf hashes of a token-id tree."""
    leaves = []
    for start in range(0, len(ids), merkle.CHUNK):
        part = b"".join(token.to_bytes(4, "big") for token in ids[start : start + merkle.CHUNK])
        leaves.append(bytes(merkle.leaf(start.to_bytes(4, "big") + part)))
    return leaves


class Claimant:
    """Commits to claims and proves them."""

    def __init__(self, world: World, account: str | None = None) -> None:
        self.world = world
        self.account = account or world.outsider
        self.faults = world.ledger.faults.functions
        self.tree_faults = world.ledger.tree_faults.functions

    def proves(self, call: ContractFunction) -> Punished:
        """A proof that succeeds, and its punishment by somebody else."""
        ledger = self.world.ledger
        proof = ledger.send(call, self.account)
        shown = proof.event("FaultProven")["fault"]
        fault = tuple(shown.values()) if hasattr(shown, "values") else tuple(shown)
        contract = ledger.faults if call.address == ledger.faults.address else ledger.tree_faults
        assert contract.functions.isProven(fault[4]).call()
        punishing = ledger.send(contract.functions.punish(fault), self.world.friend.address)
        event = punishing.event("FaultPunished")
        assert contract.functions.isPunished(fault[4]).call()
        return Punished(fault, event["slashed"], event["refunded"], proof.gas, punishing.gas)

    def reverts(self, error: str, call: ContractFunction) -> tuple[Any, ...]:
        """A proof that reverts."""
        return self.world.ledger.reverts(error, call, self.account)

    def claim(self, evidence: bytes) -> bytes:
        """Commit to a claim and return its salt."""
        return self.world.claim(self.account, evidence)

    def bind(self, commit: Commit, index: int) -> ContractFunction:
        """Show that a receipt stands under a commit."""
        tree = commit.tree
        return self.faults.bindLeaf(commit.abi, tree.shown(index), len(tree.jobs))

    def conflict(self, a: Job, b: Job, bound: bool = False) -> ContractFunction:
        """Two receipts of one node for one job."""
        salt = self.claim(pair_evidence(a.digest, b.digest))
        signed = a.receipt.to_abi(), halves(a.signature), b.receipt.to_abi(), halves(b.signature)
        return self.faults.proveConflict(*signed, bound, salt)

    def double_money(self, a: Job, b: Job, bound: bool = False) -> ContractFunction:
        """Two receipts of one node for the same money; `a` is the bound one."""
        salt = self.claim(pair_evidence(a.digest, b.digest))
        signed = a.receipt.to_abi(), halves(a.signature), b.receipt.to_abi(), halves(b.signature)
        return self.faults.proveDoubleMoney(*signed, bound, salt)

    def broken_chunk(
        self, chunk: Chunk, job: Job, index: int = 0, in_chunk: Any = NO_LEAF, in_receipt: Any = NO_LEAF
    ) -> ContractFunction:
        """A receipt that is not what its chunk said."""
        digest = chunk.digest(job.domain)
        salt = self.claim(pair_evidence(digest, job.digest))
        signed = chunk.to_abi(), halves(job.node.sign(digest)), job.receipt.to_abi(), halves(job.signature)
        return self.faults.proveBrokenChunk(*signed, index, in_chunk, in_receipt, salt)

    def broken_leaf(self, chunk: Chunk, ids: Sequence[int], job: Job, index: int = 0) -> ContractFunction:
        """The same, shown in one leaf of both; `ids` are the chunk's."""
        quantised = job.output_q[: len(ids)]
        in_chunk = output_leaf(chunk.output_from, ids, quantised, index)
        in_receipt = output_leaf(job.receipt.output_from, job.output_ids, job.output_q, index)
        return self.broken_chunk(chunk, job, index, in_chunk, in_receipt)

    def statements(self, name: str, key: SigningKey, a: TypedMessage, b: TypedMessage) -> ContractFunction:
        """Two statements of a router or a verifier."""
        domain = self.world.ledger.domain
        digests = a.digest(domain), b.digest(domain)
        salt = self.claim(pair_evidence(*digests))
        signatures = [halves(key.sign(digest)) for digest in digests]
        return self.faults[name](a.to_abi(), signatures[0], b.to_abi(), signatures[1], salt)

    def overbilling(self, job: Job, bound: bool = False) -> ContractFunction:
        """A receipt that bills too much."""
        return self.faults.proveOverbilling(*self._references(job), bound, self.claim(job.digest))

    def deviation(self, job: Job, bound: bool = False) -> ContractFunction:
        """A receipt that is not what was asked for."""
        return self.faults.proveDeviation(*self._references(job), bound, self.claim(job.digest))

    def miscount(self, job: Job, tree: TokenTree, count: int, top: bytes, bound: bool = False) -> ContractFunction:
        """A receipt whose count is not its tree's."""
        salt = self.claim(job.digest)
        return self.faults.proveMiscount(job.receipt.to_abi(), halves(job.signature), tree, count, top, bound, salt)

    def early_length(
        self, job: Job, params: bytes | None = None, offset: int | None = None, bound: bool = False
    ) -> ContractFunction:
        """A receipt that ended as `length` with room left."""
        shown = canonical_json(job.params.to_json()) if params is None else params
        place = shown.index(MAX_TOKENS) if offset is None else offset
        salt = self.claim(job.digest)
        return self.faults.proveEarlyLength(*self._references(job), shown, place, bound, salt)

    def unsigned_leaf(self, commit: Commit, data: bytes, index: int, leaves: Sequence[bytes]) -> ContractFunction:
        """A leaf that is no signed receipt."""
        salt = self.claim(keccak(data))
        proof = merkle.prove(list(leaves), index)  # type: ignore[arg-type] # hashes of forged leaves are plain bytes
        return self.tree_faults.proveUnsignedLeaf(commit.abi, data, index, len(leaves), proof, salt)

    def improper_leaf(self, commit: Commit, index: int) -> ContractFunction:
        """A leaf whose receipt does not belong there."""
        tree = commit.tree
        salt = self.claim(tree.jobs[index].digest)
        return self.tree_faults.proveImproperLeaf(commit.abi, tree.shown(index), len(tree.jobs), salt)

    def thin_leaf(self, commit: Commit, index: int) -> ContractFunction:
        """A leaf of a cheaper model than the commit's step is for."""
        tree = commit.tree
        salt = self.claim(tree.jobs[index].digest)
        return self.tree_faults.proveThinLeaf(commit.abi, tree.shown(index), len(tree.jobs), salt)

    def late_leaf(self, commit: Commit, index: int, range_index: int = 0, job: Job | None = None) -> ContractFunction:
        """A leaf that was committed long after its job's deadline."""
        tree = commit.tree
        request = (job or tree.jobs[index]).request
        salt = self.claim(tree.jobs[index].digest)
        leaf = tree.shown(index), len(tree.jobs)
        return self.tree_faults.proveLateLeaf(commit.abi, *leaf, request.to_abi(), commit.packed, range_index, salt)

    def tiling(self, commit: Commit, range_index: int, places: Sequence[int]) -> ContractFunction:
        """Neighbours that do not tile."""
        tree = commit.tree
        digests = [tree.jobs[place].digest for place in places]
        padded = [*digests, NOBODY, NOBODY][:2]
        salt = self.claim(keccak(encode(["uint64", "bytes32", "bytes32"], [commit.record.id, *padded])))
        leaves = [tree.shown(place) for place in places]
        return self.tree_faults.proveTiling(commit.abi, commit.packed, range_index, leaves, len(tree.jobs), salt)

    def _references(self, job: Job) -> tuple[Any, ...]:
        return job.receipt.to_abi(), halves(job.signature), job.offer.to_abi(), job.request.to_abi()


def bound(world: World, claimant: Claimant, *jobs: Job) -> Commit:
    """A commit whose leaves were all shown."""
    commit = world.collect(Tree(world.ledger.domain, jobs))
    for index in range(len(jobs)):
        world.ledger.send(claimant.bind(commit, index), claimant.account)
    return commit
