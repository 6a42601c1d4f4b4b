"""What a node signs about a job: chunks while it runs, a receipt when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from retally.errors import BadRequest
from retally.protocol.eip712 import Domain, TypedMessage
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.voucher import ChannelId


class FinishReason(IntEnum):
    """Why a segment ended (R-10)."""

    STOP = 0
    LENGTH = 1
    TOOL = 2
    CANCELLED = 3
    MOVED = 4
    UNPAID = 5


@dataclass(frozen=True, slots=True)
class Chunk(TypedMessage):
    """A node's word on a stream so far, and what is due for it."""

    TYPE: ClassVar[str] = (
        "Chunk(bytes32 jobId,uint16 choice,uint16 segment,address node,uint32 outputFrom,uint32 outputTo,"
        "bytes32 outputRoot,uint96 due)"
    )

    job_id: Bytes32
    choice: int
    segment: int
    node: Address
    output_from: int
    output_to: int
    output_root: Bytes32
    due: int


@dataclass(frozen=True, slots=True)
class JobReceipt(TypedMessage):
    """A node's statement of one segment of a job; its fee is `cum_to - cum_from` of its channel."""

    TYPE: ClassVar[str] = (
        "JobReceipt(bytes32 jobId,uint16 choice,address payer,address signer,address node,uint32 lane,uint96 cumFrom,"
        "uint96 cumTo,bytes32 modelId,bytes32 profileId,bytes32 offerHash,bytes32 promptRoot,uint32 promptTokens,"
        "uint32 cachedTokens,bytes32 prefixRoot,uint32 outputFrom,uint32 outputTo,bytes32 outputRoot,"
        "bytes32 paramsHash,bytes32 seed,uint8 finishReason,uint40 startedAt,uint40 finishedAt)"
    )

    job_id: Bytes32
    choice: int
    payer: Address
    signer: Address
    node: Address
    lane: int
    cum_from: int
    cum_to: int
    model_id: Bytes32
    profile_id: Bytes32
    offer_hash: Bytes32
    prompt_root: Bytes32
    prompt_tokens: int
    cached_tokens: int
    prefix_root: Bytes32
    output_from: int
    output_to: int
    output_root: Bytes32
    params_hash: Bytes32
    seed: Bytes32
    finish_reason: int
    started_at: int
    finished_at: int

    def _check_whole(self) -> None:
        if self.finish_reason > max(FinishReason):
            raise BadRequest(f"finishReason {self.finish_reason} is undefined", param="finishReason")
        if self.cum_to < self.cum_from or self.output_to < self.output_from:
            raise BadRequest("a receipt can't run backwards", param="cumTo")

    @property
    def channel(self) -> ChannelId:
        """The channel whose money line the receipt tiles."""
        return ChannelId(self.payer, self.signer, self.node, self.lane)

    @property
    def fee(self) -> int:
        """What the receipt bills."""
        return self.cum_to - self.cum_from

    @property
    def output_tokens(self) -> int:
        """How many tokens the segment put out."""
        return self.output_to - self.output_from


@dataclass(frozen=True, slots=True)
class ReceiptLeaf:
    """A signed receipt as it stands under a receipts root."""

    receipt: JobReceipt
    signature: bytes

    def data(self, domain: Domain) -> bytes:
        """The leaf's data (R-15)."""
        return self.receipt.digest(domain) + self.signature

    @property
    def order(self) -> tuple[int, int]:
        """Where the leaf stands in its tree: by channel key, then cumFrom."""
        return int.from_bytes(self.receipt.channel.key, "big"), self.receipt.cum_from
