"""Holds a node's stream to what the node signs: counts, roots, prices, seeds; anything else is cheating."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from retally.errors import BadRequest, InvalidReceipt, InvalidSignature, RetallyError
from retally.protocol.eip712 import Address, Domain, check_signed_by
from retally.protocol.embeddings import vectors_of_ids
from retally.protocol.encoding import ZERO_BYTES32, Bytes32, parse_ids, parse_signature
from retally.protocol.job import JobRequest, job_seed
from retally.protocol.merkle import MAX_Q, OutputTree, ids_root
from retally.protocol.params import JobParams
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt, ReceiptLeaf
from retally_router.directory import Listed
from retally_router.frames import Extra, Frame

ENDED = frozenset({FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL})


@dataclass(slots=True)
class ChoiceState:
    """One choice of a job: what was delivered, over all its segments."""

    index: int
    segment: int = 0
    output_from: int = 0
    ids: list[int] = field(default_factory=list)
    quantised: list[int] = field(default_factory=list)
    tree: OutputTree = field(default_factory=OutputTree)
    receipts: list[ReceiptLeaf] = field(default_factory=list)
    ended: bool = False

    def root(self) -> Bytes32:
        """The root of the segment so far; the tree grows only when somebody asks."""
        done = self.output_from + self.tree.count
        self.tree.append(self.ids[done:], self.quantised[done:])
        return self.tree.root()

    def next_segment(self) -> None:
        """Another node goes on where this one broke off."""
        self.segment += 1
        self.output_from = len(self.ids)
        self.tree = OutputTree(self.output_from)

    def forget(self, tokens: int) -> None:
        """Takes back the last tokens, which came in a frame that does not hold."""
        kept = len(self.ids) - tokens
        del self.ids[kept:], self.quantised[kept:]
        self.tree = OutputTree(self.output_from)


@dataclass(frozen=True, slots=True)
class Placed:
    """A job on one node: what its receipts have to say."""

    domain: Domain
    job_id: bytes
    request: JobRequest
    lane: int
    node: Listed
    prompt_tokens_at_most: int


class Taken(msgspec.Struct):
    """What one frame brought."""

    choice: int | None = None
    tokens: int = 0
    chunk: Chunk | None = None
    receipt: ReceiptLeaf | None = None
    prompt_tokens: int | None = None


class FrameChecker:
    """Takes the frames of one node, in order; raises InvalidReceipt or InvalidSignature when they don't add up."""

    def __init__(self, placed: Placed, choices: Iterable[ChoiceState], params: JobParams | None = None) -> None:
        self._placed = placed
        self._vectors = params if params is not None and params.is_embeddings else None
        self._choices = {choice.index: choice for choice in choices}

    def take(self, frame: Frame) -> Taken:
        """Checks one frame; nothing is counted when it raises."""
        extra = frame.extra if frame.view is not None else extra_of(frame.value)
        if extra is None:
            return Taken()
        if extra.choice is None and not (extra.ids or extra.chunk or extra.receipt):
            return Taken(prompt_tokens=extra.prompt_tokens)
        choice = None if extra.choice is None else self._choices.get(extra.choice)
        if choice is None:
            raise InvalidReceipt("choice", sorted(self._choices), extra.choice)
        if extra.ids:
            self._take_ids(choice, extra)
        taken = Taken(choice.index, len(extra.ids), prompt_tokens=extra.prompt_tokens)
        if extra.chunk is not None or extra.receipt is not None:
            try:
                # A receipt that ends the choice says what the chunk beside it says, and is what the voucher answers.
                if not _ends(extra.receipt):
                    taken.chunk = self._take_chunk(choice, extra)
                taken.receipt = self._take_receipt(choice, extra)
            except RetallyError:
                choice.forget(taken.tokens)
                raise
        return taken

    def _take_ids(self, choice: ChoiceState, extra: Extra) -> None:
        if choice.ended or len(extra.q) != len(extra.ids):
            raise InvalidReceipt("R-17 output", len(extra.ids), len(extra.q))
        _at_most("maxOutput", self._placed.request.max_output, len(choice.ids) + len(extra.ids))
        if extra.output_from != len(choice.ids):
            raise InvalidReceipt("outputFrom", len(choice.ids), extra.output_from)
        choice.ids += extra.ids
        choice.quantised += extra.q

    def _take_chunk(self, choice: ChoiceState, extra: Extra) -> Chunk | None:
        if extra.chunk is None:
            return None
        chunk = Chunk.from_wire(extra.chunk)
        placed = self._placed
        _check_signed(chunk.digest(placed.domain), extra.chunk_signature, placed.node.node)
        _same("jobId", placed.job_id, chunk.job_id)
        _same("choice", (choice.index, choice.segment), (chunk.choice, chunk.segment))
        _same("outputFrom", choice.output_from, chunk.output_from)
        _same("outputTo", len(choice.ids), chunk.output_to)
        _same("outputRoot", choice.root(), chunk.output_root)
        return chunk

    def _take_receipt(self, choice: ChoiceState, extra: Extra) -> ReceiptLeaf | None:
        if extra.receipt is None:
            return None
        receipt = JobReceipt.from_wire(extra.receipt)
        digest = receipt.digest(self._placed.domain)
        leaf = ReceiptLeaf(receipt, _check_signed(digest, extra.receipt_signature, self._placed.node.node))
        check_receipt(receipt, self._placed, choice.output_from)
        _same("prefixRoot", ids_root(choice.ids[: choice.output_from]), receipt.prefix_root)
        if receipt.finish_reason in ENDED:
            _same("outputTo", len(choice.ids), receipt.output_to)
            _same("outputRoot", choice.root(), receipt.output_root)
            if self._vectors is not None:
                _same("R-73 components", self._vectors.max_tokens, receipt.output_to)
                vectors_of_ids(choice.ids, self._vectors.dimensions)
            choice.ended = True
        else:
            # A segment that was cut off closes at its last paid chunk, which may lie before what was sent.
            _at_most("outputTo", len(choice.ids), receipt.output_to)
        choice.receipts.append(leaf)
        return leaf


def _ends(receipt: Mapping[str, Any] | None) -> bool:
    reason = None if receipt is None else receipt.get("finishReason")
    return isinstance(reason, int) and reason in ENDED


def extra_of(frame: Mapping[str, Any]) -> Extra | None:
    """The same of a frame that is not quite what it should be; raises with what is wrong."""
    extra = frame.get("retally")
    if not isinstance(extra, dict):
        return None
    ids = parse_ids("ids", extra.get("ids", []))
    quantised = parse_ids("q", extra.get("q")) if ids else ()
    if ids and max(quantised, default=0) > MAX_Q:
        raise InvalidReceipt("R-17 output", MAX_Q, max(quantised))
    return Extra(
        choice=extra.get("choice"),
        prompt_tokens=extra.get("promptTokens"),
        output_from=extra.get("outputFrom"),
        ids=list(ids),
        q=list(quantised),
        chunk=extra.get("chunk"),
        chunk_signature=extra.get("chunkSignature"),
        receipt=extra.get("receipt"),
        receipt_signature=extra.get("receiptSignature"),
    )


def check_receipt(receipt: JobReceipt, placed: Placed, output_from: int) -> None:
    """The receipt is for this job, channel, offer and seed, and bills what its own counts cost."""
    request, offer = placed.request, placed.node.offer
    _same("jobId", placed.job_id, receipt.job_id)
    _same("payer", (request.payer, request.signer), (receipt.payer, receipt.signer))
    _same("channel", (placed.node.node, placed.lane), (receipt.node, receipt.lane))
    _same("modelId", request.model_id, receipt.model_id)
    if request.profile_id != ZERO_BYTES32:
        _same("profileId", request.profile_id, receipt.profile_id)
    _same("profileId", offer.profile_id, receipt.profile_id)
    _same("offerHash", placed.node.offer_hash, receipt.offer_hash)
    _same("paramsHash", request.params_hash, receipt.params_hash)
    _same("seed", job_seed(request.client_seed, receipt.choice), receipt.seed)
    _same("outputFrom", output_from, receipt.output_from)
    _at_most("promptTokens", placed.prompt_tokens_at_most, receipt.prompt_tokens)
    _at_most("cachedTokens", receipt.prompt_tokens, receipt.cached_tokens)
    _at_most("maxOutput", request.max_output, receipt.output_to)
    fee = fee_round_down(
        offer.prices,
        prompt_tokens=receipt.prompt_tokens,
        cached_tokens=receipt.cached_tokens,
        output_tokens=receipt.output_tokens,
        choice=receipt.choice,
        output_from=receipt.output_from,
    )
    _same("R-19 fee", fee, receipt.fee)
    room = receipt.output_to < request.max_output and receipt.prompt_tokens + receipt.output_to < offer.max_context
    if receipt.finish_reason == FinishReason.LENGTH and room:
        raise InvalidReceipt("length with room left", request.max_output, receipt.output_to)


def read_receipts(shown: Mapping[str, Any], placed: Placed) -> list[ReceiptLeaf]:
    """All that a node shows of a job."""
    found = shown.get("receipts", [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidReceipt("receipts", "a list of objects", found)
    return [read_receipt(each, placed) for each in found]


def read_receipt(value: Mapping[str, Any], placed: Placed) -> ReceiptLeaf:
    """A receipt fetched after the stream, checked as far as the job's record allows."""
    receipt = JobReceipt.from_wire(value.get("receipt"))
    signature = _check_signed(receipt.digest(placed.domain), value.get("signature"), placed.node.node)
    check_receipt(receipt, placed, receipt.output_from)
    return ReceiptLeaf(receipt, signature)


def _check_signed(digest: bytes, signature: object, node: Address) -> bytes:
    try:
        raw = parse_signature("signature", signature)
    except BadRequest as error:
        raise InvalidSignature(error.message) from error
    check_signed_by(digest, raw, node)
    return raw


def _same(rule: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise InvalidReceipt(rule, _shown(expected), _shown(actual))


def _at_most(rule: str, limit: int, actual: int) -> None:
    if actual > limit:
        raise InvalidReceipt(rule, f"at most {limit}", actual)


def _shown(value: object) -> object:
    return "0x" + value.hex() if isinstance(value, bytes) else value
