"""JSON shapes of the services' HTTP APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retally.errors import BadRequest
from retally.protocol.case import AnswerRequest
from retally.protocol.encoding import (
    Bytes32,
    check_fields,
    check_integer,
    parse_bytes32,
    parse_ids,
    parse_integer,
    parse_object,
    parse_signature,
    to_hex,
)
from retally.protocol.job import Assignment, JobRequest
from retally.protocol.nesting import parse_shallow_object
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import Reservation, Voucher

MAX_LOGPROBS = 20
MAX_MODEL_CHARACTERS = 256  # it is written into every event of an answer


@dataclass(frozen=True, slots=True)
class SubmittedAssignment:
    """One choice of a submission: its order, and the ids before it for a continuation."""

    assignment: Assignment
    signature: bytes
    prefix: tuple[int, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        wire: dict[str, Any] = {"assignment": self.assignment.to_wire(), "signature": to_hex(self.signature)}
        if self.prefix:
            wire["prefix"] = list(self.prefix)
        return wire

    @classmethod
    def from_wire(cls, value: object) -> SubmittedAssignment:
        """The assignment of a JSON object."""
        wire = parse_object("assignments", value)
        check_fields("assignments", wire, {"assignment", "signature"}, frozenset({"prefix"}))
        return cls(
            Assignment.from_wire(wire["assignment"]),
            parse_signature("signature", wire["signature"]),
            parse_ids("prefix", wire.get("prefix") or []),
        )


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What of the answer's form the client chose; none of it changes a token."""

    include_usage: bool = False
    logprobs: int | None = None
    model: str = ""
    echo: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "includeUsage": self.include_usage,
            "logprobs": self.logprobs,
            "echo": self.echo,
            "model": self.model,
        }

    @classmethod
    def from_wire(cls, value: object) -> JobOptions:
        """The options of a JSON object."""
        wire = parse_object("options", value)
        check_fields("options", wire, set(), frozenset({"includeUsage", "logprobs", "echo", "model"}))
        logprobs = wire.get("logprobs")
        if logprobs is not None and check_integer("logprobs", logprobs, 32) > MAX_LOGPROBS:
            raise BadRequest(f"logprobs goes up to {MAX_LOGPROBS}", param="logprobs")
        model = wire.get("model", "")
        if not isinstance(model, str) or len(model) > MAX_MODEL_CHARACTERS:
            raise BadRequest(f"model must be a string of at most {MAX_MODEL_CHARACTERS} characters", param="model")
        return cls(_flag(wire, "includeUsage"), logprobs, model, _flag(wire, "echo"))


def _flag(wire: Mapping[str, Any], name: str) -> bool:
    value = wire.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", param=name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmission:
    """The body of POST /retally/v1/jobs."""

    request: JobRequest
    request_signature: bytes
    prompt: Mapping[str, Any]
    params: JobParams
    assignments: tuple[SubmittedAssignment, ...]
    lane: int
    voucher: Voucher
    voucher_signature: bytes
    reservation: Reservation | None = None
    reservation_signature: bytes | None = None
    stream: bool = False
    options: JobOptions = field(default_factory=JobOptions)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        wire: dict[str, Any] = {
            "request": self.request.to_wire(),
            "requestSignature": to_hex(self.request_signature),
            "prompt": dict(self.prompt),
            "params": self.params.to_json(),
            "assignments": [item.to_wire() for item in self.assignments],
            "lane": self.lane,
            "voucher": self.voucher.to_wire(),
            "voucherSignature": to_hex(self.voucher_signature),
            "stream": self.stream,
            "options": self.options.to_wire(),
        }
        if self.reservation is not None and self.reservation_signature is not None:
            wire["reservation"] = self.reservation.to_wire()
            wire["reservationSignature"] = to_hex(self.reservation_signature)
        return wire

    @classmethod
    def from_wire(cls, value: object) -> JobSubmission:
        """The submission of a JSON object; strict."""
        wire = parse_object("body", value)
        required = {"request", "requestSignature", "prompt", "params", "assignments", "lane", "voucher"}
        optional = frozenset({"reservation", "reservationSignature", "stream", "options"})
        check_fields("body", wire, required | {"voucherSignature"}, optional)
        assignments = wire["assignments"]
        if not isinstance(assignments, list) or not assignments:
            raise BadRequest("assignments must be a list of at least one", param="assignments")
        reservation, reservation_signature = _reservation(wire)
        return cls(
            request=JobRequest.from_wire(wire["request"]),
            request_signature=parse_signature("requestSignature", wire["requestSignature"]),
            prompt=parse_shallow_object("prompt", wire["prompt"]),
            params=JobParams.from_json(wire["params"]),
            assignments=tuple(SubmittedAssignment.from_wire(item) for item in assignments),
            lane=check_integer("lane", wire["lane"], 32),
            voucher=Voucher.from_wire(wire["voucher"]),
            voucher_signature=parse_signature("voucherSignature", wire["voucherSignature"]),
            reservation=reservation,
            reservation_signature=reservation_signature,
            stream=_flag(wire, "stream"),
            options=JobOptions.from_wire(wire.get("options", {})),
        )


def _reservation(wire: Mapping[str, Any]) -> tuple[Reservation | None, bytes | None]:
    if wire.get("reservation") is None:
        return None, None
    signature = parse_signature("reservationSignature", wire.get("reservationSignature"))
    return Reservation.from_wire(wire["reservation"]), signature


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How a channel stands at its node."""

    best: int
    best_signature: bytes | None
    last_cum_to: int
    due: int
    open: int
    unpaid: int

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "best": str(self.best),
            "bestSignature": None if self.best_signature is None else to_hex(self.best_signature),
            "lastCumTo": str(self.last_cum_to),
            "due": str(self.due),
            "open": self.open,
            "unpaid": str(self.unpaid),
        }

    @classmethod
    def from_wire(cls, value: object) -> ChannelState:
        """The state of a JSON object."""
        wire = parse_object("channel", value)
        check_fields("channel", wire, {"best", "bestSignature", "lastCumTo", "due", "open", "unpaid"})
        signature = wire["bestSignature"]
        return cls(
            best=parse_integer("best", wire["best"], 96),
            best_signature=None if signature is None else parse_signature("bestSignature", signature),
            last_cum_to=parse_integer("lastCumTo", wire["lastCumTo"], 96),
            due=parse_integer("due", wire["due"], 96),
            open=check_integer("open", wire["open"], 32),
            unpaid=parse_integer("unpaid", wire["unpaid"], 96),
        )


@dataclass(frozen=True, slots=True)
class SignedAnswerRequest:
    """The body of POST /retally/v1/answers."""

    request: AnswerRequest
    signature: bytes

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {"answerRequest": self.request.to_wire(), "signature": to_hex(self.signature)}

    @classmethod
    def from_wire(cls, value: object) -> SignedAnswerRequest:
        """The request of a JSON object."""
        wire = parse_object("body", value)
        check_fields("body", wire, {"answerRequest", "signature"})
        return cls(AnswerRequest.from_wire(wire["answerRequest"]), parse_signature("signature", wire["signature"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerBundle:
    """What a node shows for an audit point."""

    receipt: JobReceipt
    signature: bytes
    index: int
    leaf_count: int
    proof: tuple[Bytes32, ...]
    request: JobRequest
    request_signature: bytes
    prompt: Mapping[str, Any]
    params: JobParams
    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    output_q: tuple[int, ...]
    offer: Offer
    offer_signature: bytes

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "receipt": self.receipt.to_wire(),
            "signature": to_hex(self.signature),
            "index": self.index,
            "leafCount": self.leaf_count,
            "proof": [to_hex(item) for item in self.proof],
            "request": self.request.to_wire(),
            "requestSignature": to_hex(self.request_signature),
            "prompt": dict(self.prompt),
            "params": self.params.to_json(),
            "promptIds": list(self.prompt_ids),
            "prefixIds": list(self.prefix_ids),
            "outputIds": list(self.output_ids),
            "outputQ": list(self.output_q),
            "offer": self.offer.to_wire(),
            "offerSignature": to_hex(self.offer_signature),
        }

    @classmethod
    def from_wire(cls, value: object) -> AnswerBundle:
        """The answer of a JSON object; strict."""
        wire = parse_object("answer", value)
        check_fields("answer", wire, _ANSWER_FIELDS)
        return cls(
            receipt=JobReceipt.from_wire(wire["receipt"]),
            signature=parse_signature("signature", wire["signature"]),
            index=check_integer("index", wire["index"], 32),
            leaf_count=check_integer("leafCount", wire["leafCount"], 32),
            proof=parse_proof(wire["proof"]),
            request=JobRequest.from_wire(wire["request"]),
            request_signature=parse_signature("requestSignature", wire["requestSignature"]),
            prompt=parse_object("prompt", wire["prompt"]),
            params=JobParams.from_json(wire["params"]),
            prompt_ids=parse_ids("promptIds", wire["promptIds"]),
            prefix_ids=parse_ids("prefixIds", wire["prefixIds"]),
            output_ids=parse_ids("outputIds", wire["outputIds"]),
            output_q=parse_ids("outputQ", wire["outputQ"]),
            offer=Offer.from_wire(wire["offer"]),
            offer_signature=parse_signature("offerSignature", wire["offerSignature"]),
        )


_ANSWER_FIELDS = frozenset(
    {"receipt", "signature", "index", "leafCount", "proof", "request", "requestSignature", "prompt", "params"}
    | {"promptIds", "prefixIds", "outputIds", "outputQ", "offer", "offerSignature"}
)


def parse_proof(value: object) -> tuple[Bytes32, ...]:
    """A Merkle path."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRequest("proof must be a list", param="proof")
    return tuple(parse_bytes32("proof", item) for item in value)
