"""Offline checks of a paid answer: a list of small named checks, each true, false or unknown.

Nothing here asks a service for its opinion: signatures, counts, prices and roots are recomputed from the request, the
ids that arrived and the node's signed offer. A check is unknown (None) where its inputs are not at hand, for example
the prompt root without the model's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from retally.ask import prompt_tokens_bound
from retally.billed_outputs import check_outputs
from retally.errors import InvalidReceipt, RetallyError
from retally.job_evidence import CheckResult, Checks, Evidence, Unknown, known
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import ZERO_BYTES32, to_hex
from retally.protocol.job import client_seed_from_int, job_seed, params_hash, prompt_hash
from retally.protocol.merkle import ids_root, output_root
from retally.protocol.offer import Offer
from retally.protocol.pricing import Prices, check_prices, fee_round_down
from retally.protocol.receipt import FinishReason, ReceiptLeaf

# About the whole answer: the others must hold for each receipt before it is paid.
_OF_THE_WHOLE = frozenset({"receipts", "cost"})
# What can't be known is not paid: of one's own job all that these need is at hand, or was withheld.
_BEFORE_PAYING = frozenset(
    {
        *("node_signature", "job_id", "asked", "prompt_hash", "params_hash", "offer", "price"),
        *("counts", "output_root", "seed", "tiling", "finish"),
    }
)


def demand_payable(checks: Checks) -> None:
    """Raises InvalidReceipt where a check of one's own job says, or leaves open, that a receipt is not to be paid."""
    for check in checks:
        fails = check.passed is False and check.name not in _OF_THE_WHOLE
        if fails or (check.passed is None and check.name in _BEFORE_PAYING):
            raise InvalidReceipt(check.name, actual=check.detail)


def check_receipts_present(evidence: Evidence) -> None:
    """Every choice of the request has a receipt."""
    if not evidence.receipts:
        raise InvalidReceipt("every answer has a receipt", "at least 1", 0)
    if evidence.request is not None:
        choices = {leaf.receipt.choice for leaf in evidence.receipts}
        if choices != set(range(evidence.request.n)):
            raise InvalidReceipt("one receipt a choice", evidence.request.n, sorted(choices))


def check_node_signature(evidence: Evidence) -> None:
    """Each receipt is signed by the node that it names."""
    domain = known(evidence.domain, "the deployment")
    for leaf in evidence.receipts:
        check_signed_by(leaf.receipt.digest(domain), leaf.signature, leaf.receipt.node)


def check_job_id(evidence: Evidence) -> None:
    """The receipts are for the request that was signed (R-9)."""
    domain = known(evidence.domain, "the deployment")
    request = known(evidence.request, "the signed request")
    check_signed_by(request.digest(domain), known(evidence.request_signature, "its signature"), request.signer)
    job_id = request.digest(domain)
    for leaf in evidence.receipts:
        receipt = leaf.receipt
        _same("jobId", to_hex(job_id), to_hex(receipt.job_id))
        _same("payer", request.payer, receipt.payer)
        _same("signer", request.signer, receipt.signer)
        _same("modelId", to_hex(request.model_id), to_hex(receipt.model_id))
        if request.profile_id != ZERO_BYTES32:
            _same("profileId", to_hex(request.profile_id), to_hex(receipt.profile_id))


def check_asked(evidence: Evidence) -> None:
    """The signed request has the choices, the seed, the audit and the model that were asked, whoever signed it."""
    asked = known(evidence.asked, "what was asked")
    request = known(evidence.request, "the signed request")
    _same("n", asked.choices, request.n)
    if asked.seed is not None:
        _same("clientSeed", to_hex(client_seed_from_int(asked.seed)), to_hex(request.client_seed))
    _same("auditConsent", asked.audit_consent, request.audit_consent)
    if asked.model_ids and request.model_id not in asked.model_ids:
        raise InvalidReceipt("modelId", " or ".join(sorted(map(to_hex, asked.model_ids))), to_hex(request.model_id))
    if asked.max_prices is not None:
        check_prices(known(evidence.offer, "the offer").prices, asked.max_prices)


def check_prompt_hash(evidence: Evidence) -> None:
    """The signed request is for the prompt that was asked (R-11)."""
    request = known(evidence.request, "the signed request")
    prompt = known(evidence.prompt, "the prompt")
    _same("promptHash", to_hex(prompt_hash(request.nonce, prompt)), to_hex(request.prompt_hash))


def check_params_hash(evidence: Evidence) -> None:
    """Request and receipts are for the parameters that were asked (R-11)."""
    expected = to_hex(params_hash(known(evidence.params, "the parameters")))
    if evidence.request is not None:
        _same("paramsHash", expected, to_hex(evidence.request.params_hash))
    for leaf in evidence.receipts:
        _same("paramsHash", expected, to_hex(leaf.receipt.params_hash))


def check_offer(evidence: Evidence) -> None:
    """The node signed the offer that the receipts name."""
    domain = known(evidence.domain, "the deployment")
    offer = known(evidence.offer, "the offer")
    check_signed_by(offer.digest(domain), known(evidence.offer_signature, "its signature"), offer.node)
    for leaf in _of_offer(evidence, offer):
        _same("offerHash", to_hex(offer.digest(domain)), to_hex(leaf.receipt.offer_hash))
        _same("modelId", to_hex(offer.model_id), to_hex(leaf.receipt.model_id))


def check_price(evidence: Evidence) -> None:
    """Each fee is the offer's price of the counts, rounded down, within the request's maxima (R-19)."""
    offer = known(evidence.offer, "the offer")
    for leaf in _of_offer(evidence, offer):
        receipt = leaf.receipt
        fee = fee_round_down(
            offer.prices,
            prompt_tokens=receipt.prompt_tokens,
            cached_tokens=receipt.cached_tokens,
            output_tokens=receipt.output_tokens,
            choice=receipt.choice,
            output_from=receipt.output_from,
        )
        _same("R-19", fee, receipt.fee)
    request = evidence.request
    if request is not None:
        check_prices(offer.prices, Prices(request.max_price_in, request.max_price_cached, request.max_price_out))
        if evidence.cost > request.max_fee:
            raise InvalidReceipt("maxFee", request.max_fee, evidence.cost)


def check_stated_cost(evidence: Evidence) -> None:
    """The cost that was shown is the sum of the receipts' fees."""
    _same("cost", known(evidence.stated_cost, "the stated cost"), evidence.cost)


def check_counts(evidence: Evidence) -> None:
    """The billed output is what arrived, and within the limit asked."""
    for leaf in evidence.receipts:
        receipt = leaf.receipt
        arrived = len(_ids(evidence, receipt.choice))
        if receipt.output_to > arrived:
            raise InvalidReceipt("billed output arrived", arrived, receipt.output_to)
        if evidence.params is not None and receipt.output_to > evidence.params.max_tokens:
            raise InvalidReceipt("maxTokens", evidence.params.max_tokens, receipt.output_to)
        if evidence.params is not None and evidence.params.is_embeddings and arrived != evidence.params.max_tokens:
            raise InvalidReceipt("R-73: a vector for each input", evidence.params.max_tokens, arrived)
        if evidence.prompt is not None and receipt.prompt_tokens > prompt_tokens_bound(evidence.prompt):
            raise InvalidReceipt("promptTokens", prompt_tokens_bound(evidence.prompt), receipt.prompt_tokens)


def check_output_root(evidence: Evidence) -> None:
    """The signed output root is the root of the ids that arrived (R-17)."""
    for leaf in evidence.receipts:
        receipt = leaf.receipt
        ids = _ids(evidence, receipt.choice)[receipt.output_from : receipt.output_to]
        quantised = evidence.quantised.get(receipt.choice, [])[receipt.output_from : receipt.output_to]
        if len(quantised) != len(ids):
            if evidence.is_live:
                raise InvalidReceipt("R-17: a logprob for each token", len(ids), len(quantised))
            raise Unknown("logprobs not at hand")
        _same("R-17", to_hex(output_root(receipt.output_from, ids, quantised)), to_hex(receipt.output_root))
        prefix = ids_root(_ids(evidence, receipt.choice)[: receipt.output_from])
        _same("prefixRoot", to_hex(prefix), to_hex(receipt.prefix_root))


def check_prompt_root(evidence: Evidence) -> None:
    """The prompt ids that the node signed are the pinned template's (R-33)."""
    renderer = known(evidence.renderer, "the model's tokenizer")
    prompt, params = known(evidence.prompt, "the prompt"), known(evidence.params, "the parameters")
    ids = list(renderer(prompt, params.template_date))
    for leaf in evidence.receipts:
        _same("promptTokens", len(ids), leaf.receipt.prompt_tokens)
        _same("R-33", to_hex(ids_root(ids)), to_hex(leaf.receipt.prompt_root))


def check_seed(evidence: Evidence) -> None:
    """The sampling seed follows from the client's seed (R-26)."""
    request = known(evidence.request, "the signed request")
    for leaf in evidence.receipts:
        expected = job_seed(request.client_seed, leaf.receipt.choice)
        _same("R-26", to_hex(expected), to_hex(leaf.receipt.seed))


def check_tiling(evidence: Evidence) -> None:
    """No two receipts of the answer bill the same money of a channel (R-20)."""
    by_channel: dict[bytes, list[tuple[int, int]]] = {}
    for leaf in evidence.receipts:
        if leaf.receipt.fee:
            line = by_channel.setdefault(leaf.receipt.channel.key, [])
            line.append((leaf.receipt.cum_from, leaf.receipt.cum_to))
    for line in by_channel.values():
        line.sort()
        for (_, end), (start, _) in pairwise(line):
            if start < end:
                raise InvalidReceipt("R-20", end, start)


def check_finish(evidence: Evidence) -> None:
    """`length` only where the limit asked, or the context, was reached."""
    params = known(evidence.params, "the parameters")
    for leaf in evidence.receipts:
        receipt = leaf.receipt
        if receipt.finish_reason != FinishReason.LENGTH or receipt.output_to >= params.max_tokens:
            continue
        context = known(evidence.offer, "the offer").max_context
        if receipt.prompt_tokens + receipt.output_to < context:
            raise InvalidReceipt("length without need", params.max_tokens, receipt.output_to)


CHECKS: tuple[tuple[str, Callable[[Evidence], None]], ...] = (
    ("receipts", check_receipts_present),
    ("node_signature", check_node_signature),
    ("job_id", check_job_id),
    ("asked", check_asked),
    ("prompt_hash", check_prompt_hash),
    ("params_hash", check_params_hash),
    ("offer", check_offer),
    ("price", check_price),
    ("cost", check_stated_cost),
    ("counts", check_counts),
    ("output_root", check_output_root),
    ("prompt_root", check_prompt_root),
    ("seed", check_seed),
    ("tiling", check_tiling),
    ("outputs", check_outputs),
    ("finish", check_finish),
)


def run_checks(evidence: Evidence) -> Checks:
    """Makes every check that the evidence allows."""
    # A stored record says what was signed, not what was asked for before: there is nothing to compare.
    left_out = set() if evidence.is_live or evidence.asked is not None else {"asked"}
    return Checks(tuple(_run(name, check, evidence) for name, check in CHECKS if name not in left_out))


def _run(name: str, check: Callable[[Evidence], None], evidence: Evidence) -> CheckResult:
    try:
        check(evidence)
    except Unknown as missing:
        return CheckResult(name, None, str(missing))
    except RetallyError as error:
        return CheckResult(name, False, error.message)
    return CheckResult(name, True)


def _of_offer(evidence: Evidence, offer: Offer) -> list[ReceiptLeaf]:
    own = [leaf for leaf in evidence.receipts if leaf.receipt.node == offer.node]
    if len(own) != len(evidence.receipts):
        raise Unknown("the offer of another node of this answer not at hand")
    return own


def _ids(evidence: Evidence, choice: int) -> list[int]:
    if choice not in evidence.ids and not evidence.is_live:
        raise Unknown(f"the ids of choice {choice} not at hand")
    return evidence.ids.get(choice, [])


def _same(rule: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise InvalidReceipt(rule, expected, actual)
