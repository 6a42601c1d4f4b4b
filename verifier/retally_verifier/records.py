"""What a verifier keeps: commits, findings, nodes, cases, challenges."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32


class CommitState(StrEnum):
    """How far the audit of a commit has come."""

    SEEN = "seen"
    SEEDED = "seeded"
    AUDITED = "audited"
    COMMITTED = "committed"
    DONE = "done"


class FindingState(StrEnum):
    """How a finding came about."""

    REPLAYED = "replayed"
    DEVIATING = "deviating"
    UNREPLAYED = "unreplayed"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class AuditedCommit:
    """A commit with what its audit has produced so far."""

    record: CommitRecord
    packed_ranges: bytes
    state: CommitState
    seed: Bytes32 | None = None
    verdicts: bytes | None = None
    salt: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the verifier holds of one drawn point."""

    commit_id: int
    range_index: int
    k: int
    channel: Bytes32
    point: int
    owner: Address
    node: Address
    payer: Address
    time: int
    state: FindingState
    verdict: int
    log_e: float
    receipt_digest: Bytes32 | None = None
    fee: int = 0
    answer: bytes | None = None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A registered node as the Registry announced it."""

    node: Address
    owner: Address
    model_id: Bytes32
    profile_id: Bytes32
    endpoint: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """A case that the verifier opened or watches."""

    id: int
    owner: Address
    challenger: Address
    evidence_hash: Bytes32
    shown: bytes
    closed: bool
    verdict: int


@dataclass(frozen=True, slots=True)
class ChallengeRecord:
    """An on-chain demand of this verifier for an answer."""

    id: Bytes32
    commit_id: int
    range_index: int
    k: int
    closed: bool
