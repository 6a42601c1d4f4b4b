"""What a node's own signatures prove to be false of one job: receipts against each other, their trees and references.

A jury is not needed for any of it (R-50 to R-52). What nobody signed is no evidence and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from retally.chain.contract import ContractCall
from retally.chain.faults import Faults, Tree
from retally.errors import RetallyError
from retally.inclusion import Inclusion, check_inclusion
from retally.job_evidence import Evidence
from retally.protocol.eip712 import Domain, check_signed_by
from retally.protocol.encoding import ZERO_BYTES32, Bytes32, keccak
from retally.protocol.job import JobParams, JobRequest, job_seed
from retally.protocol.merkle import ids_leaves, ids_root, top_of
from retally.protocol.offer import Offer
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import FinishReason, JobReceipt, ReceiptLeaf

Proof = Callable[[Faults, bytes], ContractCall]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that can be proven: what it is in words, the evidence that is claimed, and the call that proves it."""

    name: str
    says: str
    node: str
    evidence: Bytes32
    proof: Proof
    #: To be shown first: a receipt under a commit binds its owner wholly, whatever becomes of the node's key.
    inclusion: Inclusion | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What nodes show of one job: its receipts, and where they lie under commits that the chain knows."""

    receipts: Sequence[ReceiptLeaf] = ()
    inclusions: Sequence[Inclusion] = ()


def find_faults(evidence: Evidence, shown: Shown, domain: Domain) -> list[Fault]:
    """What can be proven of the job; the fault that binds most comes first."""
    held = [leaf for leaf in evidence.receipts if _is_signed(leaf, domain)]
    under: dict[Bytes32, Inclusion] = {}
    for one in shown.inclusions:
        if _is_under(one, domain):
            under.setdefault(one.leaf.receipt.digest(domain), one)
    committed = [one.leaf for one in under.values() if one.leaf.receipt not in [leaf.receipt for leaf in held]]
    known = [leaf.receipt for leaf in (*held, *committed)]
    others = [leaf for leaf in shown.receipts if leaf.receipt not in known and _is_signed(leaf, domain)]
    found = [fault for b in held for a in committed for fault in _same_money(a, b, under, domain)]
    found += [fault for a, b in combinations((*held, *committed, *others), 2) for fault in _conflicts(a, b, domain)]
    for leaf in (*held, *committed):
        found += _miscounts(leaf, evidence, under.get(leaf.receipt.digest(domain)), domain)
        found += _breaches(leaf, evidence, under.get(leaf.receipt.digest(domain)), domain)
    return found


def _is_signed(leaf: ReceiptLeaf, domain: Domain) -> bool:
    try:
        check_signed_by(leaf.receipt.digest(domain), leaf.signature, leaf.receipt.node)
    except RetallyError:
        return False
    return True


def _is_under(inclusion: Inclusion, domain: Domain) -> bool:
    try:
        check_inclusion(inclusion, domain)
    except RetallyError:
        return False
    return True


def _pair(a: JobReceipt, b: JobReceipt, domain: Domain) -> Bytes32:
    return keccak(a.digest(domain) + b.digest(domain))


def _conflicts(a: ReceiptLeaf, b: ReceiptLeaf, domain: Domain) -> list[Fault]:
    one, two = a.receipt, b.receipt
    same = (one.node, one.job_id, one.choice) == (two.node, two.job_id, two.choice)
    if not same or not (one.output_from < two.output_to and two.output_from < one.output_to):
        return []
    says = f"two receipts for tokens {two.output_from} to {two.output_to} of choice {one.choice}"
    proof: Proof = lambda faults, salt: faults.prove_conflict(a, b, salt)  # noqa: E731  # named for its type
    return [Fault("conflict", says, one.node, _pair(one, two, domain), proof)]


def _same_money(a: ReceiptLeaf, b: ReceiptLeaf, under: Mapping[Bytes32, Inclusion], domain: Domain) -> list[Fault]:
    one, two = a.receipt, b.receipt
    start = max(one.cum_from, two.cum_from)
    if one.channel.key != two.channel.key or start >= min(one.cum_to, two.cum_to):
        return []
    says = f"the channel's money from {start} on is billed by your receipt, and by another under a commit"
    proof: Proof = lambda faults, salt: faults.prove_double_money(a, b, salt, bound=True)  # noqa: E731  # for its type
    return [Fault("double_money", says, one.node, _pair(one, two, domain), proof, under[one.digest(domain)])]


def _miscounts(leaf: ReceiptLeaf, evidence: Evidence, under: Inclusion | None, domain: Domain) -> list[Fault]:
    """The receipt bills another count of prompt tokens than the root that it signs holds."""
    receipt = leaf.receipt
    if evidence.renderer is None or evidence.prompt is None or evidence.params is None:
        return []
    ids = list(evidence.renderer(evidence.prompt, evidence.params.template_date))
    if receipt.prompt_tokens == len(ids) or ids_root(ids) != receipt.prompt_root:
        return []
    count, top = len(ids), top_of(ids_leaves(ids))
    says = f"it says {receipt.prompt_tokens} prompt tokens, the tree that it signs holds {count}"

    def proof(faults: Faults, salt: bytes) -> ContractCall:
        return faults.prove_miscount(leaf, Tree.PROMPT, count, top, salt, bound=under is not None)

    return [Fault("miscount", says, receipt.node, receipt.digest(domain), proof, under)]


def _breaches(leaf: ReceiptLeaf, evidence: Evidence, under: Inclusion | None, domain: Domain) -> list[Fault]:
    """What breaks the request or the offer that the receipt names."""
    receipt, offer, request, params = leaf.receipt, evidence.offer, evidence.request, evidence.params
    if offer is None or request is None:
        return []
    if (receipt.job_id, receipt.offer_hash) != (request.digest(domain), offer.digest(domain)):
        return []
    found, bound, digest = list[Fault](), under is not None, receipt.digest(domain)
    deviates = deviation(receipt, offer, request)
    if deviates:
        says = f"{deviates}: not as in the request or the offer"
        proof: Proof = lambda faults, salt: faults.prove_deviation(leaf, offer, request, salt, bound=bound)  # noqa: E731
        found.append(Fault("deviation", says, receipt.node, digest, proof, under))
    most = fee_at_most(receipt, offer, request)
    if receipt.fee > most:
        says = f"it bills {receipt.fee}, at most {most} is allowed"
        proof = lambda faults, salt: faults.prove_overbilling(leaf, offer, request, salt, bound=bound)  # noqa: E731
        found.append(Fault("overbilling", says, receipt.node, digest, proof, under))
    if params is not None and ends_early(receipt, offer, request, params):
        says = f"it says `length` after {receipt.output_to} tokens, where there was room for more"
        proof = lambda faults, salt: faults.prove_early_length(  # noqa: E731
            leaf, offer, request, params, salt, bound=bound
        )
        found.append(Fault("early_length", says, receipt.node, digest, proof, under))
    return found


def deviation(receipt: JobReceipt, offer: Offer, request: JobRequest) -> str:
    """What of a receipt is not its request's or offer's, empty if all is (R-9, R-26)."""
    pairs = {
        "payer": (receipt.payer, request.payer),
        "signer": (receipt.signer, request.signer),
        "node": (receipt.node, offer.node),
        "model asked": (receipt.model_id, request.model_id),
        "model offered": (receipt.model_id, offer.model_id),
        "profile offered": (receipt.profile_id, offer.profile_id),
        "params": (receipt.params_hash, request.params_hash),
        "seed": (receipt.seed, job_seed(request.client_seed, receipt.choice)),
    }
    if request.profile_id != ZERO_BYTES32:
        pairs["profile asked"] = (receipt.profile_id, request.profile_id)
    differing = [name for name, (has, wanted) in pairs.items() if has != wanted]
    if receipt.choice >= request.n:
        differing.append(f"choice {receipt.choice} of {request.n}")
    if not receipt.output_from <= receipt.output_to <= request.max_output:
        differing.append(f"output to {receipt.output_to}")
    return ", ".join(differing)


def fee_at_most(receipt: JobReceipt, offer: Offer, request: JobRequest) -> int:
    """What the receipt may bill (R-19); nothing at prices above the request's."""
    dear = (
        offer.price_in > request.max_price_in
        or offer.price_cached > request.max_price_cached
        or offer.price_out > request.max_price_out
    )
    if dear:
        return 0
    fee = fee_round_down(
        offer.prices,
        prompt_tokens=receipt.prompt_tokens,
        # As the contracts count: more than all of it can't have been cached.
        cached_tokens=min(receipt.cached_tokens, receipt.prompt_tokens),
        output_tokens=receipt.output_tokens,
        choice=receipt.choice,
        output_from=receipt.output_from,
    )
    return min(fee, request.max_fee)


def ends_early(receipt: JobReceipt, offer: Offer, request: JobRequest, params: JobParams) -> bool:
    """Whether a receipt that says `length` had room left (R-52)."""
    room = min(request.max_output, params.max_tokens, max(0, offer.max_context - receipt.prompt_tokens))
    return receipt.finish_reason == FinishReason.LENGTH and receipt.output_to < room
