"""Show what stands behind a drawn point of a commit, to bonded verifiers only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from retally.errors import Conflict, DeadlinePassed, InvalidSignature, NotFound, Unauthorized
from retally.protocol.audit_points import drawn_points
from retally.protocol.eip712 import Domain, recover
from retally.protocol.encoding import Address
from retally.protocol.wire import AnswerBundle, SignedAnswerRequest
from retally_node.committed_leaves import LeafBook
from retally_node.ledger import CommittedRoot, Ledger
from retally_node.ports import Clock

#: Of all that audits ask for. Roots are hashes: books that hold one hold the same under it.
_BOOK = LeafBook()


class AuditChain(Protocol):
    """What answering needs of the chain."""

    async def is_verifier(self, owner: Address) -> bool:
        """Whether this owner is bonded as a verifier."""

    async def acts_for(self, owner: Address, who: Address) -> bool:
        """Whether one may act for an owner."""

    async def seed_of(self, commit_id: int) -> bytes | None:
        """The seed of a commit, once fixed."""


async def answer_of(ledger: Ledger, domain: Domain, commit: CommittedRoot, channel: bytes, point: int) -> AnswerBundle:
    """The answer for a point, from the books alone; the first one of a large commit takes seconds, between others."""
    leaves = await _BOOK.leaves(ledger, commit.record.receipts_root)
    index = leaves.covering(channel, point)
    record = ledger.jobs.receipt(leaves.digests[index])
    if record is None:
        raise NotFound("the books do not hold the receipt of this point")
    key = record.key
    job = ledger.jobs.job(key.job_id)
    offer = ledger.money.offer(record.receipt.offer_hash)
    segment = next((s for s in ledger.jobs.segments(key.job_id) if s.key == key), None)
    if job is None or offer is None or segment is None:
        raise NotFound("the books do not hold what stands behind this point")
    return AnswerBundle(
        receipt=record.receipt,
        signature=record.signature,
        index=index,
        leaf_count=len(leaves.digests),
        proof=leaves.proof(index),
        request=job.request,
        request_signature=job.signature,
        prompt=job.prompt,
        params=job.params,
        prompt_ids=job.prompt_ids,
        prefix_ids=segment.prefix_ids,
        output_ids=tuple(record.output_ids),
        output_q=tuple(record.quantised),
        offer=offer[0],
        offer_signature=offer[1],
    )


def without_content(bundle: AnswerBundle) -> AnswerBundle:
    """The answer for a request whose payer forbade audit: what was agreed and billed, nothing of what was said."""
    return replace(bundle, prompt={}, prompt_ids=(), prefix_ids=(), output_ids=(), output_q=())


class Auditor:
    """Answers audit requests over HTTPS."""

    def __init__(self, ledger: Ledger, domain: Domain, chain: AuditChain, clock: Clock) -> None:
        self._ledger = ledger
        self._domain = domain
        self._chain = chain
        self._clock = clock
        self._turn = asyncio.Lock()

    async def answer(self, signed: SignedAnswerRequest) -> AnswerBundle:
        """The bundle for a drawn point."""
        request = signed.request
        now = self._clock.now()
        if now > request.deadline:
            raise DeadlinePassed(request.deadline, now)
        await self._check_verifier(signed)
        commit = self._ledger.commits.commit(request.commit_id)
        if commit is None:
            raise NotFound(f"commit {request.commit_id} is not this node's", code="commit_unknown")
        await self._check_drawn(commit, request.channel, request.point)
        # One at a time: the others of a root are quick once it is put together.
        async with self._turn:
            bundle = await answer_of(self._ledger, self._domain, commit, request.channel, request.point)
        return bundle if bundle.request.audit_consent else without_content(bundle)

    async def _check_verifier(self, signed: SignedAnswerRequest) -> None:
        verifier = signed.request.verifier
        signer = recover(signed.request.digest(self._domain), signed.signature)
        if signer != verifier and not await self._chain.acts_for(verifier, signer):
            raise InvalidSignature(expected=verifier, actual=signer)
        if not await self._chain.is_verifier(verifier):
            raise Unauthorized(f"{verifier} is not a bonded verifier", code="not_a_verifier")

    async def _check_drawn(self, commit: CommittedRoot, channel: bytes, point: int) -> None:
        """Prompts are shown for drawn points alone: nobody may fish."""
        seed = await self._chain.seed_of(commit.record.id)
        if seed is None:
            raise Conflict("the seed of this commit is not fixed yet", code="seed_not_fixed")
        drawn = drawn_points(seed, commit.ranges, commit.record.node, commit.record.step)
        if not any(item.channel == channel and item.point == point for item in drawn):
            raise Conflict("this point was not drawn", code="point_not_drawn")
