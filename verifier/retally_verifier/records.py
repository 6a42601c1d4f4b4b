"""What a verifier keeps: commits, findings, nodes, cases, challenges."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32, parse_bytes32


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
    #: Replayed while the guard held its pair of profiles back: says nothing.
    FROZEN = "frozen"


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


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """What a finding keeps of a replay, without its answer."""

    owner: Address
    time: int
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a calibration is for: a model and the profiles of a node and of its re-executors."""

    model_id: Bytes32
    node_profile: Bytes32
    verifier_profile: Bytes32

    @classmethod
    def of_detail(cls, detail: dict[str, Any]) -> list[Pair]:
        """The pairs that a finding's replays were judged by."""
        if "verifierProfiles" not in detail:
            return []
        model, node = parse_bytes32("model", detail["model"]), parse_bytes32("nodeProfile", detail["nodeProfile"])
        return [cls(model, node, parse_bytes32("verifierProfile", each)) for each in detail["verifierProfiles"]]


@dataclass(frozen=True, slots=True)
class Freeze:
    """A pair whose findings are inconclusive for a while."""

    pair: Pair
    since: int
    until: int
    reason: str
