"""Admission as a table of contents: each check is small, raises its own error and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from retally.errors import (
    BadRequest,
    Conflict,
    ContextExceeded,
    DeadlinePassed,
    InvalidSignature,
    OfferExpired,
    PayloadTooLarge,
    UnknownModel,
    UnsupportedParameter,
    VoucherMismatch,
)
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import ZERO_ADDRESS, ZERO_BYTES32
from retally.protocol.job import canonical_json, params_hash, prompt_hash
from retally.protocol.merkle import ids_root
from retally.protocol.pricing import check_prices
from retally.protocol.voucher import Reservation
from retally_node.candidate import AdmissionRules, Candidate
from retally_node.embedding_checks import check_embeddings, check_endpoint, check_unaudited

#: Nodes of chains pass on transactions of up to 128 KiB; the rest is for receipt, request and path.
MAX_POSTED_BYTES = 112 * 1024

PaperCheck = Callable[[Candidate, AdmissionRules], None]


def check_request_signature(candidate: Candidate, rules: AdmissionRules) -> None:
    """The signer signed the request, for this chain and this Escrow."""
    check_signed_by(candidate.job_id, candidate.submission.request_signature, candidate.request.signer)


def check_deadline(candidate: Candidate, rules: AdmissionRules) -> None:
    """The request is still wanted."""
    if candidate.now > candidate.request.deadline:
        raise DeadlinePassed(candidate.request.deadline, candidate.now)


def check_model(candidate: Candidate, rules: AdmissionRules) -> None:
    """This node serves the model."""
    if candidate.request.model_id != rules.model_id:
        raise UnknownModel("0x" + candidate.request.model_id.hex())


def check_profile(candidate: Candidate, rules: AdmissionRules) -> None:
    """This node serves it the way that was asked for; zero means any way."""
    wanted = candidate.request.profile_id
    if wanted not in (ZERO_BYTES32, rules.profile_id):
        raise BadRequest("this node serves another profile", param="profileId", code="profile_not_served")


def check_prompt_hash(candidate: Candidate, rules: AdmissionRules) -> None:
    """The prompt is the one that was signed."""
    if prompt_hash(candidate.request.nonce, candidate.submission.prompt) != candidate.request.prompt_hash:
        raise BadRequest("the prompt is not the one the request signs", param="prompt", code="prompt_mismatch")


def check_params_hash(candidate: Candidate, rules: AdmissionRules) -> None:
    """The parameters are the ones that were signed."""
    if params_hash(candidate.submission.params) != candidate.request.params_hash:
        raise BadRequest("the params are not the ones the request signs", param="params", code="params_mismatch")


def check_postable(candidate: Candidate, rules: AdmissionRules) -> None:
    """What the hashes stand for fits one transaction: challenged on chain, the node must be able to post it."""
    submission = candidate.submission
    size = len(canonical_json(dict(submission.prompt))) + len(canonical_json(submission.params.to_json()))
    if size > MAX_POSTED_BYTES and candidate.request.audit_consent:
        raise PayloadTooLarge(MAX_POSTED_BYTES)


def check_max_output(candidate: Candidate, rules: AdmissionRules) -> None:
    """The parameters ask for no more tokens than the request allows."""
    asked, allowed = candidate.submission.params.max_tokens, candidate.request.max_output
    if asked > allowed:
        raise BadRequest(f"maxTokens is {asked}, the request allows {allowed}", param="maxOutput")


def check_bias_tokens(candidate: Candidate, rules: AdmissionRules) -> None:
    """Biased tokens exist."""
    if any(token >= rules.vocab_size for token in candidate.submission.params.bias):
        raise UnsupportedParameter("logitBias", f"names a token beyond the vocabulary of {rules.vocab_size}")


def check_prompt_tokens(candidate: Candidate, rules: AdmissionRules) -> None:
    """There is a prompt, of tokens that exist."""
    if not candidate.prompt_ids:
        raise BadRequest("the prompt has no tokens", param="prompt")
    if max(candidate.prompt_ids) >= rules.vocab_size:
        raise BadRequest(f"the prompt names a token beyond the vocabulary of {rules.vocab_size}", param="prompt")


def check_context(candidate: Candidate, rules: AdmissionRules) -> None:
    """At least one more token fits; what does not fit beyond it is cut as `length`."""
    if candidate.submission.params.is_embeddings:
        # Each input has a context of its own: `check_embeddings`.
        return
    for item in candidate.submission.assignments:
        start = candidate.prompt_tokens + item.assignment.output_from
        if start + 1 > candidate.offer.max_context:
            raise ContextExceeded(start, 1, candidate.offer.max_context)


def check_offer_valid(candidate: Candidate, rules: AdmissionRules) -> None:
    """The offer has not run out."""
    if candidate.now > candidate.offer.valid_until:
        raise OfferExpired(candidate.offer.valid_until, candidate.now)


def check_offer_current(candidate: Candidate, rules: AdmissionRules) -> None:
    """The offer is for what is served now: a receipt that names another model or profile than its offer is a fault."""
    offer = candidate.offer
    if (offer.node, offer.model_id, offer.profile_id) != (rules.node, rules.model_id, rules.profile_id):
        raise OfferExpired(offer.valid_until, candidate.now)


def check_price_limits(candidate: Candidate, rules: AdmissionRules) -> None:
    """No price is above the request's maximum."""
    check_prices(candidate.offer.prices, candidate.request.max_prices)


def check_assignments_for_us(candidate: Candidate, rules: AdmissionRules) -> None:
    """Every assignment is of this job and to this node, under the same offer."""
    digest = candidate.submission.assignments[0].assignment.offer_hash
    for item in candidate.submission.assignments:
        assignment = item.assignment
        if assignment.job_id != candidate.job_id:
            raise BadRequest("an assignment is of another job", param="jobId", code="assignment_mismatch")
        if assignment.node != rules.node:
            raise BadRequest("an assignment is to another node", param="node", code="assignment_mismatch")
        if assignment.offer_hash != digest:
            raise BadRequest("assignments quote different offers", param="offerHash", code="assignment_mismatch")


def check_assignment_signatures(candidate: Candidate, rules: AdmissionRules) -> None:
    """The router, or the request's signer in its place, signed each assignment."""
    for item in candidate.submission.assignments:
        check_signed_by(item.assignment.digest(rules.domain), item.signature, item.assignment.router)


def check_choices(candidate: Candidate, rules: AdmissionRules) -> None:
    """Choices exist, appear once, and first segments come all together (R-19 bills the prompt once)."""
    choices = [item.assignment.choice for item in candidate.submission.assignments]
    if len(set(choices)) != len(choices) or any(choice >= candidate.request.n for choice in choices):
        raise BadRequest("choices must be distinct and below n", param="choice")
    firsts = [item.assignment.choice for item in candidate.submission.assignments if item.assignment.segment == 0]
    if firsts and sorted(firsts) != list(range(candidate.request.n)):
        raise BadRequest("the first segments of all choices go to one node together", param="assignments")
    starts = [item.assignment for item in candidate.submission.assignments if item.assignment.output_from == 0]
    pays = any(item.assignment.output_from or not item.assignment.choice for item in candidate.submission.assignments)
    if starts and not pays:
        # R-19 bills a choice other than the first nothing from 0: alone it would have its prompt for free.
        raise Conflict("nothing here pays for the prompt", param="assignments", code="prompt_unpaid")


def check_prefixes(candidate: Candidate, rules: AdmissionRules) -> None:
    """A continuation brings the ids it continues, under the root that its assignment names."""
    for item in candidate.submission.assignments:
        assignment = item.assignment
        if assignment.segment == 0 and assignment.output_from != 0:
            raise BadRequest("a first segment starts at 0", param="outputFrom")
        if len(item.prefix) != assignment.output_from or ids_root(item.prefix) != assignment.prefix_root:
            raise BadRequest("the prefix is not the one the assignment names", param="prefix", code="prefix_mismatch")
        if any(token >= rules.vocab_size for token in item.prefix):
            raise BadRequest("the prefix names a token beyond the vocabulary", param="prefix")
        if assignment.output_from >= candidate.answer_limit:
            raise BadRequest("nothing is left to continue", param="outputFrom")


def check_max_fee(candidate: Candidate, rules: AdmissionRules) -> None:
    """The worst case costs no more than the request, and its remainder, allow."""
    worst = candidate.total_max_fee
    allowed = min(item.assignment.remaining_fee for item in candidate.submission.assignments)
    allowed = min(allowed, candidate.request.max_fee)
    if worst > allowed:
        raise BadRequest(f"the job may cost {worst}, {allowed} is allowed", param="maxFee", code="max_fee_too_low")


def check_audit_consent(candidate: Candidate, rules: AdmissionRules) -> None:
    """This node may decline what can't be audited."""
    if rules.require_audit_consent and rules.vectors is None and not candidate.request.audit_consent:
        raise BadRequest("this node serves auditable requests only", param="auditConsent")


def check_plain_scoring(candidate: Candidate, rules: AdmissionRules) -> None:
    """Scores come in one piece, of one choice, from the start."""
    submission = candidate.submission
    if submission.params.prompt_logprobs and (submission.stream or candidate.request.n != 1):
        raise UnsupportedParameter("promptLogprobs", "goes with one plain choice only")


def check_voucher_channel(candidate: Candidate, rules: AdmissionRules) -> None:
    """The voucher is for the channel that pays."""
    voucher, channel = candidate.submission.voucher, candidate.channel_id
    for field in ("payer", "signer", "node", "lane"):
        expected, actual = getattr(channel, field), getattr(voucher, field)
        if expected != actual:
            raise VoucherMismatch(field, expected, actual)


def check_voucher_signature(candidate: Candidate, rules: AdmissionRules) -> None:
    """The signer signed the voucher."""
    submission = candidate.submission
    check_signed_by(submission.voucher.digest(rules.domain), submission.voucher_signature, candidate.request.signer)


def check_reservation(candidate: Candidate, rules: AdmissionRules) -> None:
    """A reservation, if one comes along, is this payer's for this node."""
    reservation, signature = candidate.submission.reservation, candidate.submission.reservation_signature
    if reservation is None or signature is None:
        return
    if reservation.payer != candidate.request.payer or reservation.node != rules.node:
        raise VoucherMismatch("reservation", candidate.request.payer, reservation.payer)
    if reservation.signer not in (ZERO_ADDRESS, candidate.request.signer):
        raise VoucherMismatch("reservation", candidate.request.signer, reservation.signer)
    _check_reservation_signature(reservation, signature, rules)


def _check_reservation_signature(reservation: Reservation, signature: bytes, rules: AdmissionRules) -> None:
    digest = reservation.digest(rules.domain)
    try:
        check_signed_by(digest, signature, reservation.payer)
    except InvalidSignature:
        if reservation.signer == ZERO_ADDRESS:
            raise
        check_signed_by(digest, signature, reservation.signer)


#: Read from the message alone, in this order: who asks, for what, with which voucher. Nothing here costs much.
PAPER_CHECKS: tuple[PaperCheck, ...] = (
    check_request_signature,
    check_deadline,
    check_model,
    check_profile,
    check_prompt_hash,
    check_params_hash,
    check_endpoint,
    check_max_output,
    check_bias_tokens,
    check_assignments_for_us,
    check_assignment_signatures,
    check_choices,
    check_offer_valid,
    check_offer_current,
    check_price_limits,
    check_unaudited,
    check_postable,
    check_audit_consent,
    check_plain_scoring,
    check_voucher_channel,
    check_voucher_signature,
    check_reservation,
)

#: These need the prompt's tokens, which take long to make of a long one.
PROMPT_CHECKS: tuple[PaperCheck, ...] = (
    check_prompt_tokens,
    check_context,
    check_embeddings,
    check_prefixes,
    check_max_fee,
)
