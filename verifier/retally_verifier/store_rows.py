"""Rows of the verifier's books as records."""

from __future__ import annotations

import json
from typing import Any

from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32
from retally_verifier.records import (
    AuditedCommit,
    CaseRecord,
    CommitState,
    Finding,
    FindingState,
    Freeze,
    NodeRecord,
    Pair,
)


def node_of(row: tuple[Any, ...]) -> NodeRecord:
    """A node."""
    return NodeRecord(Address(row[0]), Address(row[1]), Bytes32(row[2]), Bytes32(row[3]), row[4], bool(row[5]))


def commit_of(row: tuple[Any, ...]) -> AuditedCommit:
    """A commit."""
    record, ranges, state, seed, verdicts, salt = row
    known = None if seed is None else Bytes32(seed)
    return AuditedCommit(CommitRecord.from_wire(json.loads(record)), ranges, CommitState(state), known, verdicts, salt)


def finding_of(row: tuple[Any, ...]) -> Finding:
    """A finding."""
    return Finding(
        commit_id=row[0],
        range_index=row[1],
        k=int(row[2]),
        channel=Bytes32(row[3]),
        point=int(row[4]),
        owner=Address(row[5]),
        node=Address(row[6]),
        payer=Address(row[7]),
        time=row[8],
        state=FindingState(row[9]),
        verdict=row[10],
        log_e=row[11],
        receipt_digest=None if row[12] is None else Bytes32(row[12]),
        fee=int(row[13]),
        answer=row[14],
        detail=json.loads(row[15]),
    )


def case_of(row: tuple[Any, ...]) -> CaseRecord:
    """A case."""
    return CaseRecord(row[0], Address(row[1]), Address(row[2]), Bytes32(row[3]), row[4], bool(row[5]), row[6])


def freeze_of(row: tuple[Any, ...]) -> Freeze:
    """A freeze."""
    return Freeze(Pair(Bytes32(row[0]), Bytes32(row[1]), Bytes32(row[2])), row[3], row[4], row[5])
