"""A job before it is admitted: what was submitted, and what the checks read about it."""

from __future__ import annotations

from dataclasses import dataclass

from retally.protocol.eip712 import Domain
from retally.protocol.embeddings import VectorSizes
from retally.protocol.encoding import Address
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.protocol.pricing import fee_round_down, input_fee_round_down
from retally.protocol.voucher import ChannelId
from retally.protocol.wire import JobSubmission, SubmittedAssignment
from retally_node.channels import Channel, ChannelBook
from retally_node.ports import Standing


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What this node serves and grants."""

    node: Address
    domain: Domain
    model_id: bytes
    profile_id: bytes
    max_context: int
    vocab_size: int
    credit_per_payer: int
    credit_total: int
    require_audit_consent: bool
    #: The vectors that it makes; None where it serves completions.
    vectors: VectorSizes | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A submission with everything that a check may look at, and nothing it may change."""

    submission: JobSubmission
    job_id: bytes
    now: int
    offer: Offer
    prompt_ids: tuple[int, ...]
    #: Tokens of the longest text to embed.
    longest_input: int = 0

    @property
    def request(self) -> JobRequest:
        """The signed request."""
        return self.submission.request

    @property
    def channel_id(self) -> ChannelId:
        """The channel that pays."""
        return ChannelId(self.request.payer, self.request.signer, self.offer.node, self.submission.lane)

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
        return len(self.prompt_ids)

    @property
    def answer_limit(self) -> int:
        """How many tokens an answer may have: asked for, and fitting the context."""
        if self.submission.params.is_embeddings:
            # Components take no room in a context.
            return self.submission.params.max_tokens
        room = self.offer.max_context - self.prompt_tokens
        return min(self.submission.params.max_tokens, room)

    def input_fee(self, item: SubmittedAssignment) -> int:
        """What must be prepaid for a segment (R-22)."""
        return input_fee_round_down(
            self.offer.prices,
            prompt_tokens=self.prompt_tokens,
            choice=item.assignment.choice,
            output_from=item.assignment.output_from,
        )

    def max_fee(self, item: SubmittedAssignment) -> int:
        """The most that a segment can cost."""
        assignment = item.assignment
        return fee_round_down(
            self.offer.prices,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=0,
            output_tokens=max(0, self.answer_limit - assignment.output_from),
            choice=assignment.choice,
            output_from=assignment.output_from,
        )

    @property
    def total_input_fee(self) -> int:
        """The input of all segments."""
        return sum(self.input_fee(item) for item in self.submission.assignments)

    @property
    def total_max_fee(self) -> int:
        """The most that all segments can cost."""
        return sum(self.max_fee(item) for item in self.submission.assignments)


@dataclass(frozen=True, slots=True)
class MoneyView:
    """The money a candidate depends on, read at one instant."""

    channel: Channel
    book: ChannelBook
    standing: Standing
