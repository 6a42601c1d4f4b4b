"""Who is asking: an API key, or a job signed by its own signer."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from retally.errors import BadRequest, InvalidSignature, Unauthorized, VoucherMismatch
from retally.protocol.eip712 import Address, Domain, check_signed_by, recover
from retally.protocol.encoding import check_fields, check_integer, parse_bytes, parse_object, parse_signature
from retally.protocol.job import JobRequest
from retally.protocol.key_text import personal_digest
from retally.protocol.voucher import Voucher
from retally_router.keys import Keys, Session

_FIELDS = frozenset({"request", "requestSignature", "lane", "voucher", "voucherSignature", "quoteId"})
_OPTIONAL = frozenset({"params", "reservation", "reservationSignature"})


@dataclass(frozen=True, slots=True)
class SignedJob:
    """A job that came signed: the router only carries it to the quoted node."""

    request: JobRequest
    request_signature: bytes
    params: Mapping[str, Any] | None
    lane: int
    voucher: Voucher
    voucher_signature: bytes
    quote_id: str
    reservation: Mapping[str, Any]


Caller = Session | SignedJob


async def authorize(headers: Mapping[bytes, bytes], keys: Keys, domain: Domain, now: int) -> Caller:
    """The caller of a completion; raises Unauthorized."""
    signed = headers.get(b"x-retally-authorization")
    if signed is not None:
        job = read_signed_job(signed)
        check_signed_job(job, domain, now)
        return job
    scheme, _, api_key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not api_key:
        hint = "send `Authorization: Bearer <API key>`; create one with `retally keys create`"
        raise Unauthorized("no API key was given", code="missing_api_key", hint=hint)
    return await keys.open(api_key.strip())


def read_signed_job(header: bytes) -> SignedJob:
    """The signed job that the header carries."""
    try:
        raw = urlsafe_b64decode(header + b"=" * (-len(header) % 4))
        value = msgspec.json.decode(raw)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "send base64url of the JSON object"
        raise Unauthorized("x-retally-authorization can't be read", code="invalid_authorization", hint=hint) from error
    body = parse_object("x-retally-authorization", value)
    check_fields("x-retally-authorization", body, _FIELDS, _OPTIONAL)
    quote_id = body["quoteId"]
    if not isinstance(quote_id, str):
        raise BadRequest("quoteId must be a string", param="quoteId")
    params = body.get("params")
    return SignedJob(
        request=JobRequest.from_wire(body["request"]),
        request_signature=parse_signature("requestSignature", body["requestSignature"]),
        params=None if params is None else parse_object("params", params),
        lane=check_integer("lane", body["lane"], 32),
        voucher=Voucher.from_wire(body["voucher"]),
        voucher_signature=parse_signature("voucherSignature", body["voucherSignature"]),
        quote_id=quote_id,
        reservation={name: body[name] for name in ("reservation", "reservationSignature") if body.get(name)},
    )


def check_signed_job(job: SignedJob, domain: Domain, now: int) -> None:
    """Signatures of request and voucher are by the request's signer, in this chain's domain, and not late."""
    request, voucher = job.request, job.voucher
    try:
        check_signed_by(request.digest(domain), job.request_signature, request.signer)
        check_signed_by(voucher.digest(domain), job.voucher_signature, request.signer)
    except InvalidSignature as error:
        error.hint = f"sign for chain {domain.chain_id} and escrow {domain.escrow} with the request's signer"
        raise
    if request.deadline <= now:
        message = f"the request's signature was good until {request.deadline}, now is {now}"
        raise Unauthorized(message, code="deadline_passed", hint="sign a new request")
    expected = {"payer": request.payer, "signer": request.signer, "lane": job.lane}
    for field, value in expected.items():
        if getattr(voucher, field) != value:
            raise VoucherMismatch(field, value, getattr(voucher, field))


def check_personal(text: str, signature: bytes, payer: Address) -> None:
    """The payer signed the text with its wallet (EIP-191)."""
    hint = "sign the text shown in `message` with the payer's key"
    try:
        actual = recover(personal_digest(text), signature)
    except InvalidSignature as error:
        error.hint = hint
        raise
    if actual != payer:
        mismatch = InvalidSignature(expected=payer, actual=actual)
        mismatch.hint = hint
        raise mismatch


def parse_wallet_signature(value: object) -> bytes:
    """64 bytes of EIP-2098, or the 65 bytes that most wallets give."""
    if isinstance(value, str) and len(value) == 132 and value.startswith("0x"):
        raw = parse_bytes("signature", value, 65)
        parity = (raw[64] - 27) if raw[64] >= 27 else raw[64]
        if parity not in (0, 1):
            raise BadRequest("the signature's last byte must be 27 or 28", param="signature")
        return raw[:32] + bytes([raw[32] | (parity << 7)]) + raw[33:64]
    return parse_signature("signature", value)
