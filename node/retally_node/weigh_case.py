"""Weigh a case as its juror: every shown point checked against the chain and replayed on one's own engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from retally.errors import BadRequest, InvalidReceipt, InvalidSignature
from retally.inference.engine import Engine
from retally.protocol.answer import Renderer, check_answer, check_own_job
from retally.protocol.audit_points import AuditPoint
from retally.protocol.calibration import Calibration
from retally.protocol.case import CommitRecord, Shown, VerdictKind
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.evidence import JOB_CLIP, NAT, JobEvidence, owner_verdict
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint, period_start, shown_points
from retally.protocol.exact import judge_pair
from retally.protocol.form_judgement import judge_before_replay
from retally.protocol.grammar import Grammars
from retally.protocol.judgement import case_wealth, ids_to_score
from retally.protocol.margins import TOP, MaskedScores

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What the chain says about a case."""

    case_id: int
    owner: Address
    opened_at: int
    evidence_hash: Bytes32
    evidence_uri: str
    shown: tuple[Shown, ...]
    pair: tuple[Bytes32, Bytes32]
    own_job: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a juror votes."""

    verdict: VerdictKind
    log_e: int


INCONCLUSIVE = Opinion(VerdictKind.INCONCLUSIVE, 0)


class CaseChain(Protocol):
    """What weighing reads from the chain."""

    async def is_commit(self, commit: CommitRecord) -> bool:
        """Whether this commit was made."""

    async def seed_of(self, commit_id: int) -> bytes | None:
        """The seed of a commit, once fixed."""

    async def drawn(self, owner: Address, since: int, until: int) -> list[tuple[int, AuditPoint]]:
        """All drawn points of an owner's commits between two times."""

    async def calibration(
        self, model_id: bytes, node_profile: bytes, own_profile: bytes, committed_at: int
    ) -> Calibration | None:
        """The calibration that judges what was committed then, for a node's profile against one's own."""


@dataclass(frozen=True, slots=True)
class OwnReplayer:
    """A juror's engine and what it serves."""

    engine: Engine
    render: Renderer
    eos_ids: Collection[int]
    model_id: Bytes32
    profile_id: Bytes32
    grammars: Grammars
    #: Which profiles are judged by equality (R-72).
    exact: Collection[bytes] = ()


class CaseScale:
    """Weighs evidence files."""

    def __init__(self, chain: CaseChain, own: OwnReplayer, domain: Domain) -> None:
        self._chain = chain
        self._own = own
        self._domain = domain

    async def weigh(self, facts: CaseFacts, file: EvidenceFile) -> Opinion:
        """The opinion on a case from its file and the chain alone."""
        if file.owner != facts.owner or file.shown(self._domain) != facts.shown:
            log.warning("case %d: the file does not show what the case names", facts.case_id)
            return INCONCLUSIVE
        if len({entry.receipt_digest for entry in facts.shown}) < len(facts.shown):
            # Each receipt speaks once: the same bad luck told twice would convict.
            log.warning("case %d: a receipt is shown more than once", facts.case_id)
            return INCONCLUSIVE
        if any((p.answer.receipt.model_id, p.answer.receipt.profile_id) != facts.pair for p in file.points):
            log.warning("case %d: what is shown is not of the pair that the case names", facts.case_id)
            return INCONCLUSIVE
        if facts.own_job:
            return await self._weigh_own_job(facts, file.points[0])
        since = period_start(facts.opened_at)
        drawn = await self._chain.drawn(facts.owner, since, facts.opened_at)
        valid = [point for point in file.points if await self._is_valid(point, facts, since)]
        if len(valid) < len(file.points):
            # A mismatch pays every shown entry back: one that was made up would be paid with the others.
            log.warning("case %d: %d of the shown points are none", facts.case_id, len(file.points) - len(valid))
            return INCONCLUSIVE
        jobs = [await self._job(point) for point in valid]
        if not any(job.calibrated for job in jobs):
            return INCONCLUSIVE
        covered = self._covered(file, valid, drawn)
        wealth = case_wealth(jobs, len(drawn), covered)
        log.info("case %d: %d points shown of %d drawn, log wealth %.1f", facts.case_id, len(valid), len(drawn), wealth)
        return Opinion(owner_verdict(wealth), round(wealth * NAT))

    async def _weigh_own_job(self, facts: CaseFacts, point: EvidencePoint) -> Opinion:
        """A payer's one job, drawn or not, by itself (R-67)."""
        if point.commit.owner != facts.owner or not await self._chain.is_commit(point.commit):
            return INCONCLUSIVE
        try:
            check_own_job(point.own_context(self._domain), point.answer, self._own.render)
        except (BadRequest, InvalidSignature) as error:
            log.warning("case %d: the job is not what it claims: %s", facts.case_id, error)
            return INCONCLUSIVE
        job = await self._job(point)
        if not job.calibrated or 0 <= job.log_e < JOB_CLIP:
            return Opinion(VerdictKind.INCONCLUSIVE, round(job.log_e * NAT))
        return Opinion(VerdictKind.MATCH if job.log_e < 0 else VerdictKind.MISMATCH, round(job.log_e * NAT))

    def _covered(
        self, file: EvidenceFile, valid: Sequence[EvidencePoint], drawn: list[tuple[int, AuditPoint]]
    ) -> list[list[AuditPoint]]:
        shown = EvidenceFile(file.chain_id, file.owner, tuple(valid))
        return list(shown_points(shown, drawn, self._domain).values())

    async def _is_valid(self, point: EvidencePoint, facts: CaseFacts, since: int) -> bool:
        """Whether the point was drawn and its answer is one; what is not spoils the case."""
        commit = point.commit
        in_period = since <= commit.time <= facts.opened_at
        if commit.owner != facts.owner or not in_period or not await self._chain.is_commit(commit):
            return False
        seed = await self._chain.seed_of(commit.id)
        if seed is None:
            return False
        try:
            check_answer(point.context(self._domain, seed), point.answer)
        except (InvalidReceipt, InvalidSignature) as error:
            log.warning("case %d: a point is not what it claims: %s", facts.case_id, error)
            return False
        return True

    async def _job(self, point: EvidencePoint) -> JobEvidence:
        bundle, own = point.answer, self._own
        payer = bundle.receipt.payer
        if bundle.receipt.model_id != own.model_id:
            return JobEvidence(payer, 0.0, False)
        judged, masks = await asyncio.to_thread(judge_before_replay, bundle, own.render, own.eos_ids, own.grammars)
        if judged is not None:
            return JobEvidence(payer, judged.evidence.log_e, judged.evidence.calibrated)
        ids, start = ids_to_score(bundle)
        scores = MaskedScores(await own.engine.score(ids, start, TOP), masks)
        pair = (bundle.receipt.profile_id, own.profile_id)
        calibration = await self._chain.calibration(own.model_id, *pair, point.commit.time)
        evidence = judge_pair(bundle, scores, calibration, own.eos_ids, scored_by=own.profile_id, exact=own.exact)
        return JobEvidence(payer, evidence.log_e if evidence.calibrated else 0.0, evidence.calibrated)
