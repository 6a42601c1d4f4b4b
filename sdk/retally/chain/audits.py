"""Audits: the seeds of commits, and the pay of verifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eth_abi.abi import encode

from retally.chain.contract import Contract, ContractCall
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32, check_integer, keccak


@dataclass(frozen=True, slots=True)
class Duty:
    """Who shall audit a commit, and how far that has come."""

    drawn: Address
    duty_end: int
    commit_time: int
    committed: Address
    committed_at: int
    committed_block: int
    paid: bool
    hash: Bytes32


@dataclass(frozen=True, slots=True)
class PointVerdict:
    """A verdict on one drawn point; log e in 1e-6 nat."""

    verdict: int
    log_e: int

    def pack(self) -> bytes:
        """The 9 bytes of the verdict."""
        check_integer("verdict", self.verdict, 8)
        check_integer("logE", self.log_e, 64, signed=True)
        return bytes([self.verdict]) + self.log_e.to_bytes(8, "big", signed=True)


def pack_verdicts(verdicts: Sequence[PointVerdict]) -> bytes:
    """All verdicts of a commit in (range, k) order."""
    return b"".join(verdict.pack() for verdict in verdicts)


def unpack_verdicts(data: bytes) -> tuple[PointVerdict, ...]:
    """The verdicts of a reveal."""
    rows = (data[i : i + 9] for i in range(0, len(data), 9))
    return tuple(PointVerdict(row[0], int.from_bytes(row[1:], "big", signed=True)) for row in rows)


def verdicts_hash(commit_id: int, verifier: Address, verdicts: bytes, salt: bytes) -> Bytes32:
    """What a verifier commits before it reveals."""
    types = ["uint64", "address", "bytes32", "bytes32"]
    return keccak(encode(types, [commit_id, verifier, keccak(verdicts), salt]))


class Audits(Contract):
    """Views and calls of Audits."""

    NAME = "Audits"

    async def seed_of(self, commit_id: int) -> Bytes32 | None:
        """The seed of a commit, once it is fixed."""
        seed = Bytes32(await self.view("seedOf", commit_id))
        return seed if any(seed) else None

    async def duty_of(self, commit_id: int) -> Duty:
        """The duty of a commit."""
        return Duty(*await self.view("dutyOf", commit_id))

    async def owed_to(self, verifier: Address) -> int:
        """What the pool could not pay a verifier yet."""
        return int(await self.view("owedTo", verifier))

    def fix_seed(self, commit: CommitRecord) -> ContractCall:
        """Fixes the seed of a commit, for a tip."""
        return self.call("fixSeed", commit.to_abi())

    def commit_verdicts(self, commit_id: int, hash_: bytes) -> ContractCall:
        """Binds the sender to verdicts on all points of a commit."""
        return self.call("commitVerdicts", commit_id, hash_)

    def reveal_verdicts(self, commit: CommitRecord, ranges: bytes, verdicts: bytes, salt: bytes) -> ContractCall:
        """Shows the verdicts and is paid for them."""
        return self.call("revealVerdicts", commit.to_abi(), ranges, verdicts, salt)

    def collect_owed(self) -> ContractCall:
        """Pays the sender what the pool could not pay before."""
        return self.call("collectOwed")
