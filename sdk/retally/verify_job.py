"""Re-execute a job for whoever holds its record: rules first, the prompt before all, then the replay (R-33 to R-35)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from retally.checks import run_checks
from retally.errors import BadRequest, InvalidReceipt, InvalidSignature
from retally.job_answers import answer_of
from retally.job_evidence import Checks, Evidence
from retally.protocol.answer import Renderer, check_record
from retally.protocol.calibration import Calibration
from retally.protocol.case import VerdictKind
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Bytes32, to_hex
from retally.protocol.evidence import JOB_CLIP, combine, verdict_of
from retally.protocol.exact import has_equality, judge_pair
from retally.protocol.form_judgement import judge_before_replay
from retally.protocol.grammar import AnswerMasks, Grammars
from retally.protocol.judgement import ids_to_score
from retally.protocol.margins import MaskedScores, ReplayScores
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.token_report import TokenRow, token_rows
from retally.protocol.wire import AnswerBundle

#: What only the holder of the answer can see broken; the other rules are a judge's too.
HOLDERS_CHECKS = ("counts", "output_root", "tiling", "outputs")
NOT_REPLAYED = "no rule is broken; nothing was replayed"
NO_OFFER = "this record lacks the offer of the node that went on with the answer"


class Scorer(Protocol):
    """A re-executor: one's own engine, or a node that scores for money."""

    @property
    def name(self) -> str:
        """Who scores, for people."""
        ...

    @property
    def profile_id(self) -> Bytes32:
        """Engine, dtype and kernels that score."""
        ...

    async def score(self, ids: Sequence[int], start: int) -> ReplayScores:
        """The raw logprobs of ids[start:]."""
        ...


class CalibrationSource(Protocol):
    """Where calibrations come from."""

    async def find(
        self, model_id: bytes, node_profile: bytes, verifier_profile: bytes, committed_at: int
    ) -> Calibration | None:
        """The calibration for a pair of profiles, if it may judge what was committed then."""
        ...


@dataclass(frozen=True, slots=True)
class ModelKit:
    """A model's template and tokenizer."""

    model_id: Bytes32
    render: Renderer
    eos_ids: Collection[int]
    grammars: Grammars
    #: Which profiles are judged by equality (R-72).
    exact: Collection[bytes] = ()


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that the answer breaks by itself."""

    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What one re-executor says, token by token."""

    by: str
    profile_id: Bytes32
    log_e: float
    calibrated: bool
    rows: tuple[TokenRow, ...]
    #: Judged by equality (R-72).
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """What came of one receipt; `reason` says why a verdict is inconclusive without a number."""

    receipt: JobReceipt
    verdict: VerdictKind
    log_e: float
    broken: tuple[BrokenRule, ...] = ()
    reason: str = ""
    replays: tuple[ReplayReport, ...] = ()


@dataclass(frozen=True, slots=True)
class JobReport:
    """What came of a job: its checks and each of its receipts."""

    checks: Checks
    answers: tuple[AnswerReport, ...]

    @property
    def awaits_replay(self) -> bool:
        """Whether re-executors would make a difference."""
        return any(answer.reason == NOT_REPLAYED for answer in self.answers)

    @property
    def verdict(self) -> VerdictKind:
        """One mismatch suffices; a match takes all of them."""
        verdicts = {answer.verdict for answer in self.answers}
        return next(
            kind for kind in (VerdictKind.MISMATCH, VerdictKind.INCONCLUSIVE, VerdictKind.MATCH) if kind in verdicts
        )


async def verify_job(
    evidence: Evidence, domain: Domain, kit: ModelKit, scorers: Sequence[Scorer], calibrations: CalibrationSource
) -> JobReport:
    """Checks and replays every receipt of a job; raises BadRequest where the record is not one of a job."""
    offer = evidence.offer
    reports: list[AnswerReport] = []
    checks = run_checks(evidence)
    seen = tuple(BrokenRule(check.name, check.detail) for check in checks.failures if check.name in HOLDERS_CHECKS)
    for leaf in evidence.receipts:
        if offer is not None and leaf.receipt.node != offer.node:
            # A continuation on another node, of whose offer the client kept nothing.
            reports.append(AnswerReport(leaf.receipt, VerdictKind.INCONCLUSIVE, 0.0, reason=NO_OFFER))
            continue
        answer = checked_answer(evidence, leaf, domain, kit)
        reports.append(await _verify_answer(answer, seen, kit, scorers, calibrations))
    return JobReport(checks, tuple(reports))


def checked_answer(evidence: Evidence, leaf: ReceiptLeaf, domain: Domain, kit: ModelKit) -> AnswerBundle:
    """The answer of one receipt, signed by those whom it names; raises BadRequest for what is none."""
    if leaf.receipt.model_id != kit.model_id:
        done_by, at_hand = to_hex(leaf.receipt.model_id), to_hex(kit.model_id)
        raise BadRequest(
            f"the job was done by model {done_by}, the files at hand are of {at_hand}",
            param="model_dir",
            hint="pass the folder of the job's model: --model-dir",
        )
    answer = answer_of(evidence, leaf, _rendered(evidence, kit))
    _check_record(domain, answer)
    return answer


def _rendered(evidence: Evidence, kit: ModelKit) -> Sequence[int]:
    if evidence.prompt is None or evidence.params is None:
        return ()
    try:
        return kit.render(evidence.prompt, evidence.params.template_date)
    except BadRequest:
        # The judge says so of each answer.
        return ()


def _check_record(domain: Domain, answer: AnswerBundle) -> None:
    try:
        check_record(domain, answer)
    except InvalidReceipt as error:
        hint = "give prompt and record as they were when the job was asked for"
        raise BadRequest(f"these parts are not of one job: {error.rule} differs", param="receipt", hint=hint) from error
    except InvalidSignature as error:
        hint = "a record that nobody signed proves nothing; is this the deployment that the job was paid on?"
        raise BadRequest(f"this is no record of a job: {error.message}", param="receipt", hint=hint) from error


async def _verify_answer(
    answer: AnswerBundle,
    seen: tuple[BrokenRule, ...],
    kit: ModelKit,
    scorers: Sequence[Scorer],
    calibrations: CalibrationSource,
) -> AnswerReport:
    judged, masks = judge_before_replay(answer, kit.render, kit.eos_ids, kit.grammars)
    broken = seen
    if judged is not None and judged.deviation is not None:
        deviation = judged.deviation
        broken = (BrokenRule(deviation.rule, f"expected {deviation.expected}, got {deviation.actual}"), *seen)
    if broken:
        return AnswerReport(answer.receipt, VerdictKind.MISMATCH, JOB_CLIP, broken)
    if judged is not None:
        return AnswerReport(answer.receipt, VerdictKind.INCONCLUSIVE, 0.0, reason=_why_not(answer))
    if not scorers:
        return AnswerReport(answer.receipt, VerdictKind.INCONCLUSIVE, 0.0, reason=NOT_REPLAYED)
    replays = tuple(await asyncio.gather(*(_replay(answer, masks, kit, scorer, calibrations) for scorer in scorers)))
    if not all(replay.calibrated for replay in replays):
        reason = "no calibration covers this job and pair of profiles"
        return AnswerReport(answer.receipt, VerdictKind.INCONCLUSIVE, 0.0, reason=reason, replays=replays)
    log_e = combine([replay.log_e for replay in replays])
    return AnswerReport(answer.receipt, verdict_of(log_e), log_e, replays=replays)


async def _replay(
    answer: AnswerBundle, masks: AnswerMasks, kit: ModelKit, scorer: Scorer, calibrations: CalibrationSource
) -> ReplayReport:
    receipt = answer.receipt
    scores = MaskedScores(await scorer.score(*ids_to_score(answer)), masks)
    calibration = await calibrations.find(receipt.model_id, receipt.profile_id, scorer.profile_id, receipt.finished_at)
    by, is_exact = scorer.profile_id, has_equality(answer, scorer.profile_id, kit.exact)
    evidence = judge_pair(answer, scores, calibration, kit.eos_ids, scored_by=by, exact=kit.exact)
    rows = token_rows(answer, scores, calibration, kit.eos_ids, is_exact=is_exact)
    return ReplayReport(scorer.name, by, evidence.log_e, evidence.calibrated, tuple(rows), is_exact)


def _why_not(answer: AnswerBundle) -> str:
    if not answer.request.audit_consent:
        return "the request forbids audit, so that no replay may judge it (R-35)"
    return "the answer is empty" if not answer.output_ids else "its prompt or its form can't be rebuilt"
