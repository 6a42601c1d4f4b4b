"""From a checked answer to its evidence: the same for verifiers and jurors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from retally.errors import BadRequest
from retally.protocol.answer import Deviation, Renderer, find_deviation
from retally.protocol.audit_points import AuditPoint
from retally.protocol.calibration import Calibration
from retally.protocol.evidence import JOB_CLIP, JobEvidence, JobLogE, owner_wealth_log, replay_point
from retally.protocol.margins import Replayed, ReplayScores
from retally.protocol.wire import AnswerBundle


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge holds of an answer."""

    evidence: JobLogE
    deviation: Deviation | None = None


def ids_to_score(bundle: AnswerBundle) -> tuple[list[int], int]:
    """What a replay prefills, and where the judged tokens start in it (R-32)."""
    prefix = [*bundle.prompt_ids, *bundle.prefix_ids]
    return [*prefix, *bundle.output_ids], len(prefix)


def judge_without_replay(bundle: AnswerBundle, render: Renderer, eos_ids: Collection[int]) -> Judgement | None:
    """The judgement of an answer that needs no replay; None if it does."""
    try:
        deviation = find_deviation(bundle, render, eos_ids)
    except BadRequest as error:
        # No honest node admits a prompt that can't be rendered; but what can't be rebuilt proves nothing either.
        return Judgement(JobLogE(0.0, False, {"prompt": error.message}))
    if deviation is not None:
        return Judgement(JobLogE(JOB_CLIP, True, {"deviation": deviation.rule}), deviation)
    if not bundle.request.audit_consent or not bundle.output_ids or bundle.params.is_embeddings:
        return Judgement(JobLogE(0.0, False, {}))
    return None


def judge_replay(
    bundle: AnswerBundle, scores: ReplayScores, calibration: Calibration | None, eos_ids: Collection[int]
) -> JobLogE:
    """The evidence of an answer by one re-executor's scores."""
    return replay_point(replayed_of(bundle, eos_ids), scores, calibration)


def replayed_of(bundle: AnswerBundle, eos_ids: Collection[int]) -> Replayed:
    """What of an answer a replay judges."""
    return Replayed(
        params=bundle.params,
        # The request's own: a receipt with another seed is a deviation and never gets here.
        seed=bundle.receipt.seed,
        prompt_ids=bundle.prompt_ids,
        prefix_ids=bundle.prefix_ids,
        output_ids=bundle.output_ids,
        eos_ids=eos_ids,
    )


def case_wealth(jobs: Sequence[JobEvidence], drawn: int, covered: Sequence[Sequence[AuditPoint]]) -> float:
    """log wealth of a case: its receipts' evidence, and every drawn point that none of them covers."""
    distinct = {(point.channel, point.k) for points in covered for point in points}
    return owner_wealth_log(jobs, max(0, drawn - len(distinct)))
