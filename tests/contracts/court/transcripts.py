"""Honest transcripts of jobs, and the ways in which a dishonest one differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Self

from retally.protocol import merkle
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Bytes32
from retally.protocol.job import JobRequest, canonical_json, job_seed, params_hash, prompt_hash
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.pricing import Prices, fee_round_down
from retally.protocol.receipt import FinishReason, JobReceipt, ReceiptLeaf

MODEL = Bytes32(b"\x11" * 32)
PROFILE = Bytes32(b"\x22" * 32)
PRICES = Prices(2_000_000, 1_000_000, 6_000_000)
MAX_OUTPUT = 512
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Job:
    """A request, its receipt, and all that an answer shows."""

    domain: Domain
    node: SigningKey
    request: JobRequest
    request_signature: bytes
    offer: Offer
    prompt: dict[str, Any]
    params: JobParams
    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    output_q: tuple[int, ...]
    receipt: JobReceipt

    @property
    def digest(self) -> Bytes32:
        """Digest of the receipt."""
        return self.receipt.digest(self.domain)

    @property
    def signature(self) -> bytes:
        """The node's signature of the receipt."""
        return self.node.sign(self.digest)

    @property
    def leaf(self) -> ReceiptLeaf:
        """The leaf under a receipts root."""
        return ReceiptLeaf(self.receipt, self.signature)

    def changed(self, **fields: Any) -> Self:
        """The same job with another receipt, signed again."""
        return replace(self, receipt=replace(self.receipt, **fields))

    def offered(self, **fields: Any) -> Self:
        """The same job under another offer, which the receipt names."""
        offer = replace(self.offer, **fields)
        return replace(self, offer=offer).changed(offer_hash=offer.digest(self.domain))

    def head(self, tree: Tree) -> tuple[Any, ...]:
        """The head of its answer on chain, of a job under `tree`."""
        index = tree.jobs.index(self)
        return (
            self.receipt.to_abi(),
            self.signature,
            index,
            len(tree.jobs),
            tree.proof(index),
            self.request.to_abi(),
            self.request_signature,
            canonical_json(self.prompt),
            canonical_json(self.params.to_json()),
            self.offer.to_abi(),
        )


@dataclass(frozen=True, slots=True)
class Tree:
    """The receipts of a commit, in the order of their leaves."""

    domain: Domain
    jobs: tuple[Job, ...]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Tree:
        """The tree of an honest node."""
        return cls(jobs[0].domain, tuple(sorted(jobs, key=lambda job: job.leaf.order)))

    @property
    def leaves(self) -> list[Bytes32]:
        """Leaf hashes, whatever their order."""
        return [merkle.leaf(job.leaf.data(self.domain)) for job in self.jobs]

    @property
    def root(self) -> Bytes32:
        """Root of the tree."""
        return merkle.root(self.leaves)

    def proof(self, index: int) -> list[Bytes32]:
        """Siblings of a leaf."""
        return merkle.prove(self.leaves, index)

    def shown(self, index: int) -> tuple[Any, ...]:
        """The leaf as a proof of a fault takes it."""
        job = self.jobs[index]
        return job.receipt.to_abi(), job.signature, index, self.proof(index)


def make_job(
    domain: Domain,
    node: SigningKey,
    payer: SigningKey,
    *,
    now: int,
    cum_from: int = 0,
    prompt_tokens: int = 60,
    output_tokens: int = 128,
    output_from: int = 0,
    lane: int = 0,
    consent: bool = True,
) -> Job:
    """An honest job of the payer's own key."""
    number = next(_numbers)
    prompt = {"prompt": f"count {number} again"}
    params = JobParams(max_tokens=MAX_OUTPUT, template_date="2026-01-01", endpoint="text")
    nonce = Bytes32(number.to_bytes(32, "big"))
    request = JobRequest(
        payer=payer.address,
        signer=payer.address,
        model_id=MODEL,
        profile_id=Bytes32(bytes(32)),
        n=2,
        max_price_in=PRICES.price_in,
        max_price_cached=PRICES.price_cached,
        max_price_out=PRICES.price_out,
        prompt_hash=prompt_hash(nonce, prompt),
        params_hash=params_hash(params),
        max_output=MAX_OUTPUT,
        max_fee=10_000,
        client_seed=Bytes32(number.to_bytes(32, "big")),
        audit_consent=consent,
        nonce=nonce,
        deadline=now + 600,
    )
    job_id = request.digest(domain)
    offer = Offer(
        node.address, MODEL, PROFILE, PRICES.price_in, PRICES.price_cached, PRICES.price_out, 1024, now + 3_600
    )
    prompt_ids = tuple(range(1, prompt_tokens + 1))
    prefix_ids = tuple(range(500, 500 + output_from))
    output_ids = tuple((7 * number + i) % 4_096 for i in range(output_tokens))
    output_q = tuple((13 * i) % 65_536 for i in range(output_tokens))
    fee = fee_round_down(
        PRICES,
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        output_tokens=output_tokens,
        choice=0,
        output_from=output_from,
    )
    receipt = JobReceipt(
        job_id=job_id,
        choice=0,
        payer=payer.address,
        signer=payer.address,
        node=node.address,
        lane=lane,
        cum_from=cum_from,
        cum_to=cum_from + fee,
        model_id=MODEL,
        profile_id=PROFILE,
        offer_hash=offer.digest(domain),
        prompt_root=merkle.ids_root(prompt_ids),
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        prefix_root=merkle.ids_root(prefix_ids),
        output_from=output_from,
        output_to=output_from + output_tokens,
        output_root=merkle.output_root(output_from, output_ids, output_q),
        params_hash=params_hash(params),
        seed=job_seed(request.client_seed, 0),
        finish_reason=FinishReason.LENGTH,
        started_at=now,
        finished_at=now + 1,
    )
    return Job(
        domain, node, request, payer.sign(job_id), offer, prompt, params, prompt_ids, prefix_ids, output_ids,
        output_q, receipt,
    )  # fmt: skip
