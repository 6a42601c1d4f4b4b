"""Scores bought from nodes: prepaid scoring jobs with a receipt like any."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from retally.chain.clock import Clock
from retally.errors import InvalidReceipt
from retally.node_client import NodeClient, NodeEndpoint
from retally.protocol.eip712 import Domain, TypedMessage, check_signed_by
from retally.protocol.encoding import ZERO_BYTES32, Address, Bytes32, parse_object, parse_signature
from retally.protocol.job import Assignment, JobRequest, params_hash, prompt_hash
from retally.protocol.margins import TOP
from retally.protocol.merkle import EMPTY_ROOT
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.pricing import Prices, check_prices, max_fee
from retally.protocol.receipt import JobReceipt
from retally.protocol.scored_rows import ScoredRows
from retally.protocol.wire import JobSubmission, SubmittedAssignment
from retally.wallet import SignedVoucher

DEADLINE_SECONDS = 600


class Purse(Protocol):
    """Who pays for scores: signs, and keeps every promise on disk before it leaves."""

    @property
    def payer(self) -> Address:
        """Whose deposit pays."""
        ...

    @property
    def signer(self) -> Address:
        """Who signs."""
        ...

    def sign(self, message: TypedMessage) -> bytes:
        """Signs a typed message."""
        ...

    async def prepay(self, node: NodeEndpoint, request: JobRequest) -> SignedVoucher:
        """A voucher that covers the most that the request may cost."""
        ...

    async def settle(self, receipt: JobReceipt) -> None:
        """Books a checked receipt."""
        ...

    def ended(self, node: NodeEndpoint, request: JobRequest) -> None:
        """The job runs no more, whether or not it came to a receipt."""
        ...


class ScoreBuyer:
    """Has transcripts scored by nodes, so many jobs at a time on each: an engine scores a batch for little more."""

    def __init__(
        self,
        client: NodeClient,
        purse: Purse,
        domain: Domain,
        clock: Clock,
        at_once: int = 1,
        *,
        max_price: int | None = None,
    ) -> None:
        """`max_price` bounds each price of an offer, in asset units per million tokens; the purse may bound the fee."""
        self._most = None if max_price is None else Prices(max_price, max_price, max_price)
        self._client = client
        self._purse = purse
        self._domain = domain
        self._clock = clock
        self._gates: dict[Address, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(at_once))
        # Promises to one node grow one after the other.
        self._promising: dict[Address, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._boot = secrets.randbits(48)
        self._counter = 0

    async def score(self, node: NodeEndpoint, ids: Sequence[int], start: int) -> ScoredRows:
        """The raw logprobs of ids[start:] by one node, paid for; raises PriceAboveMax where it asks too much."""
        async with self._gates[node.node]:
            async with self._promising[node.node]:
                offer, _ = await self._client.offer(node, self._domain)
                if self._most is not None:
                    check_prices(offer.prices, self._most)
                submission = await self._submission(node, offer, ids)
            try:
                answer = await self._client.run_job(node, submission)
                extension = parse_object("retally", answer.get("retally"))
                await self._keep_receipts(node, submission.request, extension)
            finally:
                self._purse.ended(node, submission.request)
            return ScoredRows.from_wire(extension.get("promptLogprobs"), start, len(ids) - start)

    async def _submission(self, node: NodeEndpoint, offer: Offer, ids: Sequence[int]) -> JobSubmission:
        params = JobParams(
            max_tokens=1,
            template_date=datetime.fromtimestamp(self._clock.now(), UTC).date().isoformat(),
            endpoint="text",
            temperature=0,
            prompt_logprobs=TOP,
        )
        prompt = {"promptIds": list(ids)}
        request = self._request(offer, params, prompt, max_fee(offer.prices, prompt_tokens=len(ids), max_output=1))
        assignment = self._assignment(request, node, offer)
        signed = await self._purse.prepay(node, request)
        return JobSubmission(
            request=request,
            request_signature=self._purse.sign(request),
            prompt=prompt,
            params=params,
            assignments=(SubmittedAssignment(assignment, self._purse.sign(assignment)),),
            lane=signed.voucher.lane,
            voucher=signed.voucher,
            voucher_signature=signed.signature,
        )

    def _request(self, offer: Offer, params: JobParams, prompt: dict[str, Any], fee: int) -> JobRequest:
        nonce = Bytes32(secrets.token_bytes(32))
        return JobRequest(
            payer=self._purse.payer,
            signer=self._purse.signer,
            model_id=offer.model_id,
            profile_id=ZERO_BYTES32,
            n=1,
            max_price_in=offer.price_in,
            max_price_cached=offer.price_cached,
            max_price_out=offer.price_out,
            prompt_hash=prompt_hash(nonce, prompt),
            params_hash=params_hash(params),
            max_output=1,
            max_fee=fee,
            client_seed=ZERO_BYTES32,
            # Audits of audits would never end.
            audit_consent=False,
            nonce=nonce,
            deadline=self._clock.now() + DEADLINE_SECONDS,
        )

    def _assignment(self, request: JobRequest, node: NodeEndpoint, offer: Offer) -> Assignment:
        self._counter += 1
        return Assignment(
            job_id=request.digest(self._domain),
            router=self._purse.signer,
            replica=0,
            boot=self._boot,
            counter=self._counter,
            node=node.node,
            offer_hash=offer.digest(self._domain),
            choice=0,
            segment=0,
            output_from=0,
            prefix_root=EMPTY_ROOT,
            remaining_fee=request.max_fee,
        )

    async def _keep_receipts(self, node: NodeEndpoint, request: JobRequest, extension: Any) -> None:
        for item in extension.get("receipts") or []:
            wire = parse_object("receipt", item)
            receipt = JobReceipt.from_wire(wire.get("receipt"))
            digest = receipt.digest(self._domain)
            check_signed_by(digest, parse_signature("signature", wire.get("signature")), node.node)
            if receipt.job_id != request.digest(self._domain) or receipt.fee > request.max_fee:
                raise InvalidReceipt("the request", request.max_fee, receipt.fee)
            await self._purse.settle(receipt)
