"""Judgement by equality, for profiles whose kernels give the same logits to everybody (R-72)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from retally.protocol.calibration import Calibration
from retally.protocol.evidence import JOB_CLIP, JobLogE
from retally.protocol.judgement import judge_replay, replayed_of
from retally.protocol.margins import Replayed, ReplayScores, token_margins
from retally.protocol.wire import AnswerBundle

EQUALITY = "equality"
#: What fp32 and fp64 round apart between the sampler and its replay, in nats.
ROUNDING = 1e-4
#: In 1e-6.
COLDEST = 10_000
#: An equal answer halves the job's stake: e is 1/2 then, so that honest wealth only ever falls.
EQUAL = math.log(0.5)


def is_exact(profile: Mapping[str, Any]) -> bool:
    """Whether a profile's JSON asks for equality."""
    return profile.get("verdict") == EQUALITY


def differing(replayed: Replayed, scores: ReplayScores) -> list[int]:
    """The output tokens that are not the sampler's own choice on these scores, by index.

    Where a candidate beyond the scored ones could have changed the choice, nothing is held against the claimed token.
    """
    margins = token_margins(replayed, scores, ROUNDING)
    return [index for index, token in enumerate(margins) if token.margin > ROUNDING]


def judge_exactly(bundle: AnswerBundle, scores: ReplayScores, eos_ids: Collection[int]) -> JobLogE:
    """The evidence of an answer that has to be equal token by token; it needs no calibration.

    So cold that fp32 rounds the noise away beside the logits, replay and sampler may part: nothing is said there.
    """
    if 0 < bundle.params.temperature < COLDEST:
        return JobLogE(0.0, False, {"reason": "too cold for a replay in fp64"})
    found = differing(replayed_of(bundle, eos_ids), scores)
    return JobLogE(JOB_CLIP if found else EQUAL, True, _summary(bundle.output_ids, found))


def has_equality(bundle: AnswerBundle, scored_by: bytes, exact: Collection[bytes]) -> bool:
    """Whether a re-executor of this profile judges the answer by equality: both ran one exact profile."""
    return scored_by == bundle.receipt.profile_id and scored_by in exact


def judge_pair(
    bundle: AnswerBundle,
    scores: ReplayScores,
    calibration: Calibration | None,
    eos_ids: Collection[int],
    *,
    scored_by: bytes,
    exact: Collection[bytes],
) -> JobLogE:
    """The evidence by one re-executor's scores: equality where both ran one exact profile, statistics elsewhere."""
    if has_equality(bundle, scored_by, exact):
        return judge_exactly(bundle, scores, eos_ids)
    return judge_replay(bundle, scores, calibration, eos_ids)


def _summary(output_ids: Sequence[int], found: Sequence[int]) -> dict[str, Any]:
    return {"tokens": len(output_ids), "differing": len(found), "first": found[0] if found else None}
