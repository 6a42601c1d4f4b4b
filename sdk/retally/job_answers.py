"""What the holder of a job's record can show of it: the answers that its node would show for an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retally.errors import BadRequest
from retally.inclusion import Inclusion
from retally.job_evidence import Evidence
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.wire import AnswerBundle

_WHOLE_JOB = "give what `retally receipt JOB --json` printed on the machine that asked; a router keeps receipts alone"


def answer_of(evidence: Evidence, leaf: ReceiptLeaf, prompt_ids: Sequence[int]) -> AnswerBundle:
    """The answer of one receipt, without its place under a commit; raises BadRequest where the record lacks a part."""
    receipt, offer = leaf.receipt, evidence.offer
    request, params, prompt = evidence.request, evidence.params, evidence.prompt
    if request is None or evidence.request_signature is None or params is None:
        raise BadRequest("this record lacks the signed request", param="receipt", hint=_WHOLE_JOB)
    if prompt is None:
        raise BadRequest("the prompt is not at hand", param="prompt", hint="pass it: --prompt FILE, or --ask TEXT")
    if offer is None or evidence.offer_signature is None or offer.node != receipt.node:
        raise BadRequest(f"this record lacks the offer of {receipt.node}", param="receipt", hint=_WHOLE_JOB)
    if receipt.choice not in evidence.ids:
        raise BadRequest(f"this record lacks the ids of choice {receipt.choice}", param="receipt", hint=_WHOLE_JOB)
    ids, quantised = evidence.ids[receipt.choice], evidence.quantised.get(receipt.choice, [])
    return AnswerBundle(
        receipt=receipt,
        signature=leaf.signature,
        index=0,
        leaf_count=0,
        proof=(),
        request=request,
        request_signature=evidence.request_signature,
        prompt=prompt,
        params=params,
        prompt_ids=tuple(prompt_ids),
        prefix_ids=tuple(ids[: receipt.output_from]),
        output_ids=tuple(ids[receipt.output_from : receipt.output_to]),
        output_q=tuple(quantised[receipt.output_from : receipt.output_to]),
        offer=offer,
        offer_signature=evidence.offer_signature,
    )


def under_commit(answer: AnswerBundle, inclusion: Inclusion) -> AnswerBundle:
    """The answer with its place under a commit."""
    return replace(answer, index=inclusion.index, leaf_count=inclusion.leaf_count, proof=inclusion.proof)
