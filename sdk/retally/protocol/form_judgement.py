"""Whether an answer kept to its form, which needs no engine: the same for verifiers and jurors (R-70)."""

from __future__ import annotations

from collections.abc import Collection

from retally.errors import BadRequest
from retally.protocol.answer import Deviation, Renderer
from retally.protocol.evidence import JOB_CLIP, JobLogE
from retally.protocol.grammar import AnswerMasks, Grammars
from retally.protocol.judgement import Judgement, judge_without_replay
from retally.protocol.structure import grammar_of
from retally.protocol.wire import AnswerBundle

FREE = AnswerMasks()


def judge_before_replay(
    bundle: AnswerBundle, render: Renderer, eos_ids: Collection[int], grammars: Grammars
) -> tuple[Judgement | None, AnswerMasks]:
    """The judgement of an answer that needs no replay, and the masks that a replay needs.

    Warning: compiling a grammar takes up to a second; call it in a thread where that matters.
    """
    judged = judge_without_replay(bundle, render, eos_ids)
    if judged is not None or not bundle.params.has_form:
        return judged, FREE
    try:
        masks = masks_of(bundle, eos_ids, grammars)
    except BadRequest as error:
        # No honest node admits a form that can't be enforced; but what can't be rebuilt proves nothing either.
        return Judgement(JobLogE(0.0, False, {"form": error.message})), FREE
    return judge_form(bundle, masks), masks


def masks_of(bundle: AnswerBundle, eos_ids: Collection[int], grammars: Grammars) -> AnswerMasks:
    """The masks of an answer's own tokens, after its prefix."""
    grammar = grammar_of(bundle.params, bundle.prompt)
    if not grammar:
        return FREE
    return AnswerMasks(grammars.masks(grammar, eos_ids, bundle.prefix_ids, bundle.output_ids))


def judge_form(bundle: AnswerBundle, masks: AnswerMasks) -> Judgement | None:
    """A broken rule where a token of the answer was forbidden; None otherwise."""
    index = masks.first_forbidden(bundle.output_ids)
    if index is None:
        return None
    position = bundle.receipt.output_from + index
    deviation = Deviation("form", "a token that the answer's form allows", f"{bundle.output_ids[index]} at {position}")
    return Judgement(JobLogE(JOB_CLIP, True, {"deviation": deviation.rule}), deviation)
