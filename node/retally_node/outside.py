"""Everything around a node, as ports."""

from __future__ import annotations

from dataclasses import dataclass

from retally_node.answer_audit import AuditChain
from retally_node.challenges import ChallengeChain
from retally_node.defence import DefenceCourt
from retally_node.jury import CourtView
from retally_node.ports import Clock, Payers
from retally_node.read_evidence import EvidenceSource
from retally_node.reservations import ReserveChain
from retally_node.settlement import CollectChain
from retally_node.weigh_case import CaseChain


@dataclass(frozen=True, slots=True)
class Outside:
    """What a node's use cases need of chain, payers and court."""

    clock: Clock
    payers: Payers
    collect: CollectChain
    audits: AuditChain
    reserve: ReserveChain
    challenges: ChallengeChain
    court: CourtView
    defence: DefenceCourt
    cases: CaseChain
    evidence: EvidenceSource
    deployed_block: int
