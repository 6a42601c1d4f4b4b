"""A customer of a node: signs requests, assignments and vouchers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import ZERO_BYTES32, Address, Bytes32, keccak
from retally.protocol.job import Assignment, JobParams, JobRequest, params_hash, prompt_hash
from retally.protocol.merkle import ids_root
from retally.protocol.offer import Offer
from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import JobOptions, JobSubmission, SubmittedAssignment
from retally_node.node import Node
from tests.fakes_node_ports import DEPLOYMENT, MODEL_ID, NODE_KEY, START


@dataclass
class Customer:
    """A payer's signer and its router in one: signs requests, assignments and vouchers."""

    key: SigningKey = field(default_factory=lambda: SigningKey(keccak(b"session")))
    payer: Address = SigningKey(keccak(b"payer")).address
    lane: int = 7
    domain: Domain = DEPLOYMENT.domain
    counter: int = 0

    @property
    def channel(self) -> ChannelId:
        return ChannelId(self.payer, self.key.address, NODE_KEY.address, self.lane)

    def params(self, **changes: Any) -> JobParams:
        return JobParams(**{"max_tokens": 24, "template_date": "2026-11-21", **changes})

    def request(self, prompt: Mapping[str, Any], params: JobParams, **changes: Any) -> JobRequest:
        nonce = Bytes32(secrets.token_bytes(32))
        values: dict[str, Any] = {
            "payer": self.payer,
            "signer": self.key.address,
            "model_id": MODEL_ID,
            "profile_id": ZERO_BYTES32,
            "n": 1,
            "max_price_in": 10**9,
            "max_price_cached": 10**9,
            "max_price_out": 10**9,
            "prompt_hash": prompt_hash(nonce, prompt),
            "params_hash": params_hash(params),
            "max_output": params.max_tokens,
            "max_fee": 10**9,
            "client_seed": Bytes32(bytes(31) + b"\x07"),
            "audit_consent": True,
            "nonce": nonce,
            "deadline": START + 3600,
        }
        return JobRequest(**{**values, **changes})

    def assign(
        self, request: JobRequest, offer: Offer, prefix: Sequence[int] = (), **changes: Any
    ) -> SubmittedAssignment:
        self.counter += 1
        values: dict[str, Any] = {
            "job_id": request.digest(self.domain),
            "router": self.key.address,
            "replica": 0,
            "boot": 1,
            "counter": self.counter,
            "node": NODE_KEY.address,
            "offer_hash": offer.digest(self.domain),
            "choice": 0,
            "segment": 1 if prefix else 0,
            "output_from": len(prefix),
            "prefix_root": ids_root(prefix),
            "remaining_fee": request.max_fee,
        }
        assignment = Assignment(**{**values, **changes})
        return SubmittedAssignment(assignment, self.key.sign(assignment.digest(self.domain)), tuple(prefix))

    def voucher(self, cumulative: int, **changes: Any) -> tuple[Voucher, bytes]:
        values: dict[str, Any] = {**self._channel_fields(), "cumulative": cumulative}
        voucher = Voucher(**{**values, **changes})
        return voucher, self.key.sign(voucher.digest(self.domain))

    def _channel_fields(self) -> dict[str, Any]:
        channel = self.channel
        return {"payer": channel.payer, "signer": channel.signer, "node": channel.node, "lane": channel.lane}

    async def submission(
        self,
        node: Node,
        text: str = "Once upon a time",
        *,
        cumulative: int = 10**8,
        stream: bool = False,
        prompt: Mapping[str, Any] | None = None,
        params: JobParams | None = None,
        options: JobOptions | None = None,
        **request: Any,
    ) -> JobSubmission:
        """A submission that a node takes, unless told otherwise."""
        params = params or self.params()
        prompt = prompt or {"messages": [{"role": "user", "content": text}]}
        signed = self.request(prompt, params, **request)
        offer = (await node.offers.current()).offer
        voucher, voucher_signature = self.voucher(cumulative)
        return JobSubmission(
            request=signed,
            request_signature=self.key.sign(signed.digest(self.domain)),
            prompt=prompt,
            params=params,
            assignments=tuple(self.assign(signed, offer, choice=choice) for choice in range(signed.n)),
            lane=self.lane,
            voucher=voucher,
            voucher_signature=voucher_signature,
            stream=stream,
            options=options or JobOptions(),
        )

    def resign(self, submission: JobSubmission, offer: Offer, **changes: Any) -> JobSubmission:
        """The submission with fields of its request changed and everything signed again."""
        request = replace(submission.request, **changes)
        items = tuple(
            self.assign(request, offer, item.prefix, choice=item.assignment.choice, segment=item.assignment.segment)
            for item in submission.assignments
        )
        signature = self.key.sign(request.digest(self.domain))
        return replace(submission, request=request, request_signature=signature, assignments=items)
