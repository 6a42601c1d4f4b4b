"""A job as `JobResult.to_json` wrote it, read back for its checks to be made again, offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.errors import BadRequest
from retally.job_evidence import Evidence, PromptRenderer
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import parse_ids, parse_integer, parse_object, parse_signature
from retally.protocol.job import JobParams, JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt, ReceiptLeaf


def evidence_of(
    content: object,
    *,
    domain: Domain | None = None,
    prompt: Mapping[str, Any] | None = None,
    renderer: PromptRenderer | None = None,
) -> Evidence:
    """The evidence of a stored job; what is missing stays unknown."""
    wire = parse_object("job", content)
    receipts = wire.get("receipts")
    if not isinstance(receipts, list) or not receipts:
        raise BadRequest("no receipts in this file", hint="expected what `retally receipt JOB --json` prints")
    evidence = Evidence(domain=domain, prompt=prompt or wire.get("prompt"), renderer=renderer)
    evidence.receipts = [_leaf(entry) for entry in receipts]
    if wire.get("request") is not None:
        evidence.request = JobRequest.from_wire(wire["request"])
        evidence.request_signature = parse_signature("requestSignature", wire.get("requestSignature"))
    if wire.get("params") is not None:
        evidence.params = JobParams.from_json(wire["params"])
    if wire.get("offer") is not None:
        evidence.offer = Offer.from_wire(wire["offer"])
        evidence.offer_signature = parse_signature("offerSignature", wire.get("offerSignature"))
    evidence.ids = _by_choice("ids", wire.get("ids"))
    evidence.quantised = _by_choice("q", wire.get("q"))
    if wire.get("cost") is not None:
        evidence.stated_cost = parse_integer("cost", wire["cost"], 256)
    return evidence


def _leaf(entry: object) -> ReceiptLeaf:
    wire = parse_object("receipts", entry)
    return ReceiptLeaf(JobReceipt.from_wire(wire.get("receipt")), parse_signature("signature", wire.get("signature")))


def _by_choice(name: str, value: object) -> dict[int, list[int]]:
    if value is None:
        return {}
    wire = parse_object(name, value)
    if not all(choice.isdecimal() for choice in wire):
        raise BadRequest(f"{name} must be by the number of the choice", param=name)
    return {int(choice): list(parse_ids(name, ids)) for choice, ids in wire.items()}
