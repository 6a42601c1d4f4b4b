"""What scripts/bench_router's node reads of the node protocol, and nothing else of it."""

from __future__ import annotations

import msgspec


class WireRequest(msgspec.Struct, rename="camel"):
    """What a receipt repeats of the request."""

    payer: str
    signer: str
    params_hash: str
    client_seed: str


class WireAssignment(msgspec.Struct, rename="camel"):
    """What of an assignment the node needs."""

    job_id: str


class WireOrder(msgspec.Struct):
    """One choice of a submission."""

    assignment: WireAssignment


class WireParams(msgspec.Struct, rename="camel"):
    """How long the answer is."""

    max_tokens: int


class WireVoucher(msgspec.Struct):
    """A voucher as it comes."""

    payer: str
    signer: str
    node: str
    lane: int
    cumulative: str


class WireOptions(msgspec.Struct, rename="camel"):
    """The form of the answer."""

    include_usage: bool = False


class Submission(msgspec.Struct, rename="camel"):
    """What the node reads of a job."""

    request: WireRequest
    params: WireParams
    assignments: list[WireOrder]
    lane: int
    voucher: WireVoucher
    voucher_signature: str
    options: WireOptions


class SignedVoucher(msgspec.Struct):
    """One voucher of a delivery."""

    voucher: WireVoucher
    signature: str


class Delivery(msgspec.Struct):
    """The body of POST /retally/v1/vouchers."""

    vouchers: list[SignedVoucher]


SUBMISSION = msgspec.json.Decoder(Submission)
DELIVERY = msgspec.json.Decoder(Delivery)
