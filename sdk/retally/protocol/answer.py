"""Whether a node's answer is one, and whether it proves against the node what no replay is needed for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retally.errors import InvalidReceipt
from retally.protocol import merkle
from retally.protocol.audit_points import AuditPoint
from retally.protocol.case import CommitRecord, Range
from retally.protocol.eip712 import Domain, check_signed_by
from retally.protocol.encoding import ZERO_BYTES32
from retally.protocol.job import job_seed, params_hash, prompt_hash
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import FinishReason, ReceiptLeaf
from retally.protocol.wire import AnswerBundle

Renderer = Callable[[Mapping[str, Any], str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What was asked for: a drawn point of a commit on this chain."""

    domain: Domain
    commit: CommitRecord
    range: Range
    point: AuditPoint


@dataclass(frozen=True, slots=True)
class Deviation:
    """A rule that the answered receipt breaks by itself; enough for the verdict mismatch."""

    rule: str
    expected: str
    actual: str


def check_answer(context: AnswerContext, bundle: AnswerBundle) -> None:
    """Raises InvalidReceipt, or InvalidSignature, where the bundle does not answer the point: as good as silence."""
    _point(context, bundle)
    check_record(context.domain, bundle)
    _leaf(context, bundle)
    # A request that forbids audit is answered without its prompt and ids.
    if bundle.request.audit_consent:
        _prompt_ids(bundle)
        _answer_ids(bundle)


def check_own_job(context: AnswerContext, bundle: AnswerBundle, render: Renderer) -> None:
    """The same for what a payer shows of its own job (R-67); it need not know which prompt ids the node counted.

    Raises BadRequest where the prompt can't be rendered.
    """
    _point(context, bundle)
    check_record(context.domain, bundle)
    _leaf(context, bundle)
    if bundle.request.audit_consent:
        if not _prompt_deviates(bundle, render):
            _prompt_ids(bundle)
        _answer_ids(bundle)


def check_record(domain: Domain, bundle: AnswerBundle) -> None:
    """Raises where receipt, request, preimages and offer are not of one job, signed by those they name."""
    for check in (_signed, _request, _preimages, _offer):
        check(domain, bundle)


def _prompt_deviates(bundle: AnswerBundle, render: Renderer) -> bool:
    return any(expected != actual for _, expected, actual in _prompt_pairs(bundle, render))


def _demand(rule: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise InvalidReceipt(rule, expected, actual)


def _point(context: AnswerContext, bundle: AnswerBundle) -> None:
    receipt = bundle.receipt
    _demand("the commit's node", context.commit.node, receipt.node)
    _demand("the point's channel", context.point.channel, receipt.channel.key)
    if not receipt.cum_from <= context.point.point < receipt.cum_to:
        raise InvalidReceipt("covering the point", context.point.point, (receipt.cum_from, receipt.cum_to))


def _leaf(context: AnswerContext, bundle: AnswerBundle) -> None:
    leaf = merkle.leaf(ReceiptLeaf(bundle.receipt, bundle.signature).data(context.domain))
    root, count = context.commit.receipts_root, bundle.leaf_count
    if not merkle.verify(root, leaf, bundle.index, count, count, bundle.proof):
        raise InvalidReceipt("standing under the receipts root")


def _signed(domain: Domain, bundle: AnswerBundle) -> None:
    check_signed_by(bundle.receipt.digest(domain), bundle.signature, bundle.receipt.node)


def _request(domain: Domain, bundle: AnswerBundle) -> None:
    digest = bundle.request.digest(domain)
    _demand("the signed request", bundle.receipt.job_id, digest)
    check_signed_by(digest, bundle.request_signature, bundle.request.signer)


def _preimages(_: Domain, bundle: AnswerBundle) -> None:
    request = bundle.request
    if request.audit_consent:
        _demand("the prompt's hash", request.prompt_hash, prompt_hash(request.nonce, bundle.prompt))
    _demand("the params' hash", request.params_hash, params_hash(bundle.params))


def _offer(domain: Domain, bundle: AnswerBundle) -> None:
    digest = bundle.offer.digest(domain)
    _demand("the named offer", bundle.receipt.offer_hash, digest)
    _demand("the offer's node", bundle.receipt.node, bundle.offer.node)
    check_signed_by(digest, bundle.offer_signature, bundle.receipt.node)


def _prompt_ids(bundle: AnswerBundle) -> None:
    _demand("promptTokens", bundle.receipt.prompt_tokens, len(bundle.prompt_ids))
    _demand("promptRoot", bundle.receipt.prompt_root, merkle.ids_root(bundle.prompt_ids))


def _answer_ids(bundle: AnswerBundle) -> None:
    receipt = bundle.receipt
    _demand("outputFrom", receipt.output_from, len(bundle.prefix_ids))
    _demand("prefixRoot", receipt.prefix_root, merkle.ids_root(bundle.prefix_ids))
    _demand("outputTo", receipt.output_tokens, len(bundle.output_ids))
    _demand("outputTo", len(bundle.output_ids), len(bundle.output_q))
    if any(q > merkle.MAX_Q for q in bundle.output_q):
        raise InvalidReceipt("16-bit logprobs")
    root = merkle.output_root(receipt.output_from, bundle.output_ids, bundle.output_q)
    _demand("outputRoot", receipt.output_root, root)


def find_deviation(bundle: AnswerBundle, render: Renderer, eos_ids: Collection[int]) -> Deviation | None:
    """The first rule that a checked answer breaks without any statistics; of the replay's, the prompt first (R-33)."""
    # Before anything is rendered: of a request that is not the receipt's, no prompt can be held against anybody.
    foreign = find_foreign_request(bundle)
    if foreign is not None:
        return foreign
    if bundle.params.is_embeddings:
        # Vectors end in no token, and nobody knows yet how far two engines' vectors lie apart (R-75).
        return _first_broken(_money_pairs(bundle))
    pairs = [*_prompt_pairs(bundle, render), *_money_pairs(bundle), *_ending_pairs(bundle, eos_ids)]
    return _first_broken(pairs)


def find_foreign_request(bundle: AnswerBundle) -> Deviation | None:
    """In what the shown request or offer is not for the receipt: on chain that is no answer, here it is a mismatch."""
    return _first_broken(_request_pairs(bundle))


Pairs = list[tuple[str, object, object]]


def _first_broken(pairs: Pairs) -> Deviation | None:
    for rule, expected, actual in pairs:
        if expected != actual:
            return Deviation(rule, _shown(expected), _shown(actual))
    return None


def _prompt_pairs(bundle: AnswerBundle, render: Renderer) -> Pairs:
    if not bundle.request.audit_consent:
        return []
    rendered = list(render(bundle.prompt, bundle.params.template_date))
    return [("prompt", merkle.ids_root(rendered), bundle.receipt.prompt_root)]


def _request_pairs(bundle: AnswerBundle) -> Pairs:
    receipt, request = bundle.receipt, bundle.request
    wanted = receipt.profile_id if request.profile_id == ZERO_BYTES32 else request.profile_id
    return [
        ("payer", request.payer, receipt.payer),
        ("signer", request.signer, receipt.signer),
        ("model", request.model_id, receipt.model_id),
        ("offered model", bundle.offer.model_id, receipt.model_id),
        ("profile", wanted, receipt.profile_id),
        ("offered profile", bundle.offer.profile_id, receipt.profile_id),
        ("params", request.params_hash, receipt.params_hash),
        ("seed", job_seed(request.client_seed, receipt.choice), receipt.seed),
        ("choice", True, receipt.choice < request.n),
        ("max output", True, receipt.output_to <= min(request.max_output, bundle.params.max_tokens)),
    ]


def _money_pairs(bundle: AnswerBundle) -> Pairs:
    receipt, prices, most = bundle.receipt, bundle.offer.prices, bundle.request.max_prices
    if receipt.cached_tokens > receipt.prompt_tokens + receipt.output_from:
        return [("cached tokens", receipt.prompt_tokens + receipt.output_from, receipt.cached_tokens)]
    fee = fee_round_down(
        prices,
        prompt_tokens=receipt.prompt_tokens,
        cached_tokens=min(receipt.cached_tokens, receipt.prompt_tokens),
        output_tokens=receipt.output_tokens,
        choice=receipt.choice,
        output_from=receipt.output_from,
    )
    within = prices.price_in <= most.price_in and prices.price_cached <= most.price_cached
    return [
        # Billing less than the offer is the node's own affair.
        ("fee", True, receipt.fee <= fee),
        ("max price", True, within and prices.price_out <= most.price_out),
        ("max fee", True, receipt.fee <= bundle.request.max_fee),
    ]


def _ending_pairs(bundle: AnswerBundle, eos_ids: Collection[int]) -> Pairs:
    receipt, request = bundle.receipt, bundle.request
    if not request.audit_consent:
        return []
    if receipt.finish_reason == FinishReason.LENGTH:
        limit = min(request.max_output, bundle.params.max_tokens)
        room = receipt.output_to < limit and receipt.prompt_tokens + receipt.output_to < bundle.offer.max_context
        return [("length", False, room)]
    if receipt.finish_reason == FinishReason.TOOL and bundle.params.tool_choice.type == "none":
        return [("tool", False, True)]
    if receipt.finish_reason in (FinishReason.STOP, FinishReason.TOOL) and not bundle.params.stop:
        ended = bool(bundle.output_ids) and bundle.output_ids[-1] in eos_ids
        return [("stop", True, ended)]
    return []


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
