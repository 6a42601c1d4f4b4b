"""Admit a job: checks, then one durable record, before anything is computed or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from weakref import WeakValueDictionary

from retally.errors import BadRequest, Conflict, ContextExceeded, DuplicateJob, InsufficientFunds, RateLimited
from retally.protocol.offer import Offer
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import JobSubmission, SubmittedAssignment
from retally_node.answer_form import AnswerForms
from retally_node.candidate import AdmissionRules, Candidate, MoneyView
from retally_node.channels import Channel, ChannelBook, OpenSegment, SegmentKey
from retally_node.checks import PAPER_CHECKS, PROMPT_CHECKS
from retally_node.ledger import Ledger
from retally_node.money_checks import CREDIT_CHECKS, STANDING_CHECKS, MoneyCheck
from retally_node.ports import Clock, Payers, Standing
from retally_node.records import JobRecord, ReceiptRecord, SegmentRecord
from retally_node.room import ServingRoom

__all__ = ["Admission", "AdmittedJob", "StoredAnswer"]

#: Each keeps a thread busy, on a machine that has other work.
PROMPTS_AT_ONCE = 2
WHOLE_REASONS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL)


@dataclass(frozen=True, slots=True)
class AdmittedJob:
    """A job that is on the books: nothing about it can be refused any more."""

    record: JobRecord
    submission: JobSubmission
    offer: Offer
    channel: Channel
    segments: tuple[SegmentRecord, ...]
    answer_limit: int
    secured: bool


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A job that was served before, exactly as asked for now."""

    record: JobRecord
    submission: JobSubmission
    receipts: tuple[ReceiptRecord, ...]


class Admission:
    """The gate of the node."""

    def __init__(
        self,
        rules: AdmissionRules,
        ledger: Ledger,
        book: ChannelBook,
        payers: Payers,
        clock: Clock,
        forms: AnswerForms,
        room: ServingRoom,
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._book = book
        self._payers = payers
        self._clock = clock
        self._forms = forms
        self._room = room
        self._reading = asyncio.Semaphore(PROMPTS_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Of its own: grammars are compiled in the loop's threads, and may take them all.
        self._threads = ThreadPoolExecutor(PROMPTS_AT_ONCE, thread_name_prefix="prompt")

    async def admit(self, submission: JobSubmission) -> AdmittedJob | StoredAnswer:
        """Check everything, then write the job down; or find the answer it already has."""
        bare = self._candidate(submission)
        for check in PAPER_CHECKS:
            check(bare, self._rules)
        payer, signer = bare.request.payer, bare.request.signer
        if self._ledger.jobs.job(bare.job_id) is None:
            # A stranger's signature costs nothing: before its prompt is read it has to have something.
            standing = await self._payers.standing(payer, signer)
            if standing.funds <= 0:
                raise InsufficientFunds(1, standing.funds)
        fewest = self._forms.fewest_tokens(submission.prompt)
        if fewest > bare.offer.max_context:
            raise ContextExceeded(fewest, 1, bare.offer.max_context)
        candidate = await self._with_prompt(bare)
        for check in PROMPT_CHECKS:
            check(candidate, self._rules)
        stored = self._stored(candidate)
        if stored is not None:
            return stored
        standing = await self._payers.standing(payer, signer)
        self._check_money(candidate, STANDING_CHECKS, self._channel(candidate), standing)
        await self._forms.check(submission.params, submission.prompt)
        await self._keep_promises(candidate, self._book.find(candidate.channel_id.key))
        # All of it once more: others were admitted meanwhile, or this one. From here to the record nothing waits.
        stored = self._stored(candidate)
        if stored is not None:
            return stored
        self._check_money(candidate, (*STANDING_CHECKS, *CREDIT_CHECKS), self._channel(candidate), standing)
        self._check_capacity(candidate)
        return await self._record(candidate)

    def _channel(self, candidate: Candidate) -> Channel:
        """The channel that pays; one that no job was ever admitted on is not on the books, nor put there by a look."""
        return self._book.find(candidate.channel_id.key) or Channel(candidate.channel_id)

    def _check_money(
        self, candidate: Candidate, checks: Sequence[MoneyCheck], channel: Channel, standing: Standing
    ) -> None:
        view = MoneyView(channel, self._book, standing)
        for check in checks:
            check(candidate, self._rules, view)

    def _candidate(self, submission: JobSubmission) -> Candidate:
        """What was submitted, its prompt not read yet."""
        digest = submission.assignments[0].assignment.offer_hash
        known = self._ledger.money.offer(digest)
        if known is None:
            raise BadRequest("this node made no such offer", param="offerHash", code="offer_unknown")
        return Candidate(
            submission=submission,
            job_id=submission.request.digest(self._rules.domain),
            now=self._clock.now(),
            offer=known[0],
            prompt_ids=(),
        )

    async def _with_prompt(self, candidate: Candidate) -> Candidate:
        """The same with the prompt's tokens, made in a thread: of a long one that takes seconds."""
        prompt, date = candidate.submission.prompt, candidate.submission.params.template_date
        turn = self._turns.setdefault(candidate.request.payer, asyncio.Lock())
        # One of a payer at a time: many long ones of one leave others a thread.
        async with turn, self._reading:
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._forms.parts, prompt, date)
            parts = await work
        ids = tuple(chain.from_iterable(parts))
        return replace(candidate, prompt_ids=ids, longest_input=max(map(len, parts)))

    def _stored(self, candidate: Candidate) -> StoredAnswer | None:
        asked = {_key(candidate, item) for item in candidate.submission.assignments}
        job = self._ledger.jobs.job(candidate.job_id)
        if job is None:
            return None
        segments = self._ledger.jobs.segments(candidate.job_id)
        beyond = {(key.choice, key.output_from) for segment in segments if (key := segment.key) not in asked}
        receipts = [receipt for receipt in self._ledger.jobs.receipts(candidate.job_id) if receipt.key in asked]
        whole = all(receipt.receipt.finish_reason in WHOLE_REASONS for receipt in receipts)
        if len(receipts) == len(asked) and whole and not beyond:
            return StoredAnswer(job, candidate.submission, tuple(receipts))
        if asked & {segment.key for segment in segments}:
            raise DuplicateJob("0x" + candidate.job_id.hex())
        self._check_not_signed_beyond(candidate)
        return None

    def _check_not_signed_beyond(self, candidate: Candidate) -> None:
        """A node that signed tokens beyond the start of a continuation would contradict itself."""
        receipts = self._ledger.jobs.receipts(candidate.job_id)
        for item in candidate.submission.assignments:
            key = _key(candidate, item)
            for receipt in receipts:
                if receipt.receipt.choice == key.choice and receipt.receipt.output_to > key.output_from:
                    raise Conflict("this node has signed beyond that token", code="already_signed_beyond")

    async def _keep_promises(self, candidate: Candidate, channel: Channel | None) -> None:
        """A signed promise is kept even if the job it came with is refused: the signer may count on it.

        Nothing is owed on a channel that is new: its voucher is kept with its first job. Lanes cost a payer nothing.
        """
        submission = candidate.submission
        if submission.reservation is not None and submission.reservation_signature is not None:
            await self._ledger.money.record_reservation(submission.reservation, submission.reservation_signature)
        if channel is not None:
            await self._ledger.money.keep_voucher(channel, submission.voucher, submission.voucher_signature)

    def _check_capacity(self, candidate: Candidate) -> None:
        if not self._room.has_room(len(candidate.submission.assignments)):
            raise RateLimited("this node is full", retry_after=1.0)

    async def _record(self, candidate: Candidate) -> AdmittedJob:
        submission, channel = candidate.submission, self._book.get(candidate.channel_id)
        voucher, signature = submission.voucher, submission.voucher_signature
        segments = tuple(self._segment(candidate, item) for item in submission.assignments)
        if any(segment.key in channel.open for segment in segments):
            raise DuplicateJob("0x" + candidate.job_id.hex())
        job = JobRecord(
            job_id=candidate.job_id,
            request=submission.request,
            signature=submission.request_signature,
            prompt=submission.prompt,
            params=submission.params,
            options=submission.options.to_wire(),
            prompt_ids=candidate.prompt_ids,
            received_at=candidate.now,
        )
        for segment, item in zip(segments, submission.assignments, strict=True):
            channel.open[segment.key] = OpenSegment(segment.prepaid, candidate.max_fee(item))
        self._room.enter(len(segments))
        try:
            # The voucher is on disk with the job: before prefill, and before anybody counts on it.
            more = voucher.cumulative > channel.best
            kept = replace(channel, best=voucher.cumulative, best_signature=signature) if more else channel
            await self._ledger.jobs.admit(job, segments, kept)
            channel.accept(voucher, signature)
        except BaseException:
            for segment in segments:
                del channel.open[segment.key]
                self._room.leave()
            self._book.drop_unused(channel)
            raise
        secured = self._book.committed_with(channel.id.payer) > self._rules.credit_per_payer
        return AdmittedJob(job, submission, candidate.offer, channel, segments, candidate.answer_limit, secured)

    def _segment(self, candidate: Candidate, item: SubmittedAssignment) -> SegmentRecord:
        return SegmentRecord(
            key=_key(candidate, item),
            segment=item.assignment.segment,
            channel=candidate.channel_id,
            assignment=item.assignment,
            assignment_signature=item.signature,
            offer_hash=item.assignment.offer_hash,
            prepaid=candidate.input_fee(item),
            started_at=candidate.now,
            prefix_ids=item.prefix,
        )


def _key(candidate: Candidate, item: SubmittedAssignment) -> SegmentKey:
    return SegmentKey(candidate.job_id, item.assignment.choice, item.assignment.output_from)
