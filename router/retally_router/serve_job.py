"""Serves one job: the best node that takes it, its stream checked and paid, another node if it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from retally.errors import NodeUnavailable, RetallyError
from retally.protocol.receipt import ReceiptLeaf
from retally_router import failover
from retally_router.allowance import Held
from retally_router.attempts import Attempts, Begun, affordable, pause_seconds
from retally_router.channels import Channels
from retally_router.check_frames import ChoiceState, Taken
from retally_router.credit import Credit
from retally_router.directory import Directory, Listed
from retally_router.frames import Frame
from retally_router.hedge import HedgeBudget
from retally_router.job_log import JobLog
from retally_router.keys import Session
from retally_router.metrics import Metrics
from retally_router.observed import Watch
from retally_router.placement import Job, Placement
from retally_router.placing import Placer
from retally_router.ports import Direct
from retally_router.refusals import CHEATS, is_final
from retally_router.selection import Plan
from retally_router.settle_jobs import SettleJobs
from retally_router.store_errors import StoreError
from retally_router.vouchers import VoucherSender

log = structlog.get_logger(__name__)

#: What a node says that still answers, under an earlier assignment, the choice that it shall go on with.
STILL_OPEN = "choice_open"
STILL_OPEN_SECONDS, STILL_OPEN_TRIES = 0.05, 20


@dataclass(frozen=True, slots=True)
class Means:
    """What serving a job takes."""

    placer: Placer
    channels: Channels
    credit: Credit
    directory: Directory
    watch: Watch
    sender: VoucherSender
    settle: SettleJobs
    log: JobLog
    metrics: Metrics
    max_attempts: int
    max_continuations: int
    first_seconds: float
    hedges: HedgeBudget


@dataclass(slots=True)
class ServeJob:
    """One job from its first node to its last receipt."""

    means: Means
    job: Job
    candidates: list[Listed]
    attempts: Attempts
    #: The nodes that may go on with the job as it was signed, best first, without those named.
    again: Callable[[frozenset[str]], Plan]
    choices: list[ChoiceState] = field(default_factory=list)
    placement: Placement | None = None
    continuations: int = 0
    prompt_tokens: int = 0
    offered: list[Listed] = field(default_factory=list)
    began_at: float = 0.0
    first_at: float | None = None
    failure: RetallyError | None = None
    last: Frame | None = None
    node: str = ""
    over: bool = False
    held: Held = field(default_factory=Held)

    async def start(self) -> None:
        """Finds a node that begins to answer; raises what the last one said."""
        self.offered, self.choices = list(self.candidates), [ChoiceState(index) for index in range(self.job.ask.n)]
        error: RetallyError = NodeUnavailable("no node could take the job")
        ends, number = time.monotonic() + self.means.first_seconds, 0
        self.means.hedges.earn()
        fee, most_tries = self.job.request.max_fee, self.means.max_attempts
        # A node that a late one is raced with is one of those that may be tried.
        while self.candidates and number + self.attempts.hedges < most_tries and time.monotonic() < ends:
            node, number = self.candidates.pop(0), number + 1
            is_last = not self.candidates or number + self.attempts.hedges == most_tries
            try:
                begun = await self.attempts.begin(ends, node, self.choices, fee, is_last=is_last, spare=self._spare)
                self._take_up(begun)
                return
            except RetallyError as refusal:
                self.candidates, self.attempts.unplaced = self.attempts.unplaced + self.candidates, []
                error, self.candidates = refusal, affordable(self.job, refusal, self.candidates)
                if is_final(refusal) and not self.candidates:
                    raise
                await asyncio.sleep(pause_seconds(number, self.means.watch.random.random()))
        raise failover.told(error, number + self.attempts.hedges)

    async def next(self, direct: Direct | None = None) -> list[Frame]:
        """More checked frames, ready to be forwarded; none when the answer is whole. Raises when it can't be."""
        while not self.over:
            frames: list[Frame] = []
            if self.failure is None:
                try:
                    await self._read(frames, direct)
                except RetallyError as error:
                    self.failure = error
            # What came whole before the failure is forwarded first: a continuation starts right after it.
            if frames:
                return frames
            if self.failure is not None:
                failure, self.failure = self.failure, None
                closing = await self._mend(failure)
                if closing:
                    return closing
        return []

    async def finish(self) -> None:
        """Always called: closes the connection, ends the hold, sees to what is missing."""
        placement, self.placement = self.placement, None
        try:
            if placement is not None:
                placement.stream.close()
                await self._end_placement(placement)
            if isinstance(self.job.caller, Session):
                job_id, account = self.job.job_id.hex(), placement.account if placement else None
                await self.means.settle.release(self.job.request.payer, job_id, account)
        except StoreError as error:
            # The answer is out already: its books are tidied up in the background.
            log.warning("job_not_tidied", job=self.job.job_id.hex(), error=str(error))
            if placement is not None and placement.account is not None:
                self.means.settle.later(placement.placed, placement.account, placement.record)
            if isinstance(self.job.caller, Session):
                account = placement.account if placement else None
                self.means.settle.release_later(self.job.request.payer, self.job.job_id.hex(), account)
        finally:
            self.attempts.end()

    @property
    def receipts(self) -> list[ReceiptLeaf]:
        """All receipts so far, in the order of choices and segments."""
        return [leaf for choice in self.choices for leaf in choice.receipts]

    @property
    def cost(self) -> int:
        """What they bill."""
        return failover.paid_so_far(self.choices)

    def _take_up(self, begun: Begun) -> None:
        self.placement, self.began_at, self.first_at, self.node = begun.placement, begun.at, None, begun.node

    def _spare(self) -> Listed | None:
        # A hedge may bill the prompt once more, as a continuation may: it counts as one, and one is enough for a job.
        means = self.means
        is_free = bool(means.max_continuations) and not self.attempts.hedges and isinstance(self.job.caller, Session)
        return self.candidates.pop(0) if is_free and self.candidates and means.hedges.take() else None

    async def _read(self, frames: list[Frame], direct: Direct | None) -> None:
        placement = self.placement
        assert placement is not None
        # What follows a continuation may have to be changed.
        found = await placement.next(None if self.continuations else direct)
        for frame in found:
            try:
                taken = placement.checker.take(frame)
                self.count(placement, taken)
                if taken.receipt is not None:
                    await self._note(placement, taken.receipt)
            except CHEATS as error:
                await self.means.log.add_fault(placement.placed, error.message, frame.shown)
                raise
            if self.continuations:
                if failover.is_repeated_opening(frame):
                    continue
                if frame.value.get("usage"):
                    frame = failover.whole_usage(frame, self.choices, self.prompt_tokens)
            self.last = frame
            frames.append(frame)
        if not found:
            if failover.unfinished(self.choices):
                raise NodeUnavailable("the node ended without a receipt")
            self.over = True

    async def _mend(self, error: RetallyError) -> list[Frame]:
        """Goes on elsewhere, or closes an answer that lacks nothing but its end."""
        assert self.placement is not None
        node = self.placement.placed.node.node
        if not failover.unfinished(self.choices):
            log.info("node_left_early", node=node, error=str(error))
            self.over = True
            return []
        self._leave(error)
        closing = failover.close_full(self.choices, self._answer_limit(), self.last)
        if failover.unfinished(self.choices):
            await self._go_on(error)
        else:
            self.over = True
        return closing

    def count(self, placement: Placement, taken: Taken) -> None:
        """Counts what a checked frame brought."""
        if taken.prompt_tokens is not None and not self.prompt_tokens:
            self.prompt_tokens = taken.prompt_tokens
        account, job_id = placement.account, self.job.job_id
        if taken.tokens and taken.choice is not None:
            if self.first_at is None:
                self.first_at = time.monotonic()
                if self.node in self.attempts.visits:
                    self.attempts.visits[self.node].first_token()
            if account is not None:
                account.open.count((job_id, taken.choice, self.choices[taken.choice].segment), taken.tokens)
        if account is None or taken.chunk is None:
            return
        if not account.note_due(due := taken.chunk.due):
            # Not yet borne out by what was read of the channel's other streams; it is asked again with each chunk.
            log.info("due_not_borne_out", node=self.node, job=job_id.hex(), due=due, own=account.own_due)
        self.means.sender.pay(account)

    async def _note(self, placement: Placement, leaf: ReceiptLeaf) -> None:
        account = placement.account
        if account is None:
            await self.means.log.keep_receipts([leaf])
            return
        segment = self.choices[leaf.receipt.choice].segment
        await self.means.channels.close_segment(account, leaf, segment, placement.record.field)
        self.means.sender.pay(account)

    def _leave(self, error: RetallyError) -> None:
        placement, self.placement = self.placement, None
        assert placement is not None
        self.attempts.refused(placement.placed.node.node, error)
        self.attempts.abandon(placement)

    def _answer_limit(self) -> int:
        room = max(node.offer.max_context for node in self.offered) - self.prompt_tokens
        return min(self.job.request.max_output, room)

    async def _go_on(self, error: RetallyError) -> None:
        """The next node that can continue exactly; raises the error when there is none."""
        if not isinstance(self.job.caller, Session):
            raise failover.broken(error)
        ends = time.monotonic() + self.means.first_seconds
        allowed, patience = self.means.max_continuations - self.attempts.hedges, STILL_OPEN_TRIES
        # Asked anew: a long answer outlives what was known when it began.
        plan = self.again(frozenset(self.attempts.tried))
        self.attempts.expected = plan.expected
        candidates = sorted(plan.candidates, key=lambda node: node.node.lower() in self.attempts.late)
        self.offered += [node for node in candidates if node not in self.offered]
        while candidates and self.continuations < allowed and time.monotonic() < ends:
            node = candidates.pop(0)
            self.continuations += 1
            is_last = not candidates or self.continuations == allowed
            unfinished = failover.unfinished(self.choices)
            failover.cut_over(unfinished)
            left = max(0, self.job.request.max_fee - self.cost - self.attempts.unsettled)
            try:
                self._take_up(await self.attempts.begin(ends, node, unfinished, left, is_last=is_last))
            except RetallyError as refusal:
                if refusal.code == STILL_OPEN and patience:
                    # It lost a race for this job a moment ago and has not closed its part: nothing began there.
                    patience -= 1
                    candidates.insert(0, node)
                    self.continuations -= 1
                    await asyncio.sleep(STILL_OPEN_SECONDS)
                continue
            self.means.metrics.continuations.inc()
            return
        raise failover.broken(error)

    async def _end_placement(self, placement: Placement) -> None:
        account = placement.account
        if not failover.unfinished(self.choices) and not placement.is_open:
            if self.node in self.attempts.visits:
                tokens = self.job.ask.counted_tokens(choice.ids for choice in self.choices) // len(self.choices)
                cached = next((leaf.receipt.cached_tokens for leaf in self.receipts), None)
                self.attempts.visits[self.node].succeeded(tokens, self.prompt_tokens, cached)
            if account is not None:
                # Also where a client that left ended the wait for the receipt's record and its payment.
                if not await self.means.channels.is_on_record(account, placement.record):
                    self.means.settle.later(placement.placed, account, placement.record)
                    return
                self.means.sender.pay(account)
                # Not before: a router that dies before its last voucher is out leaves it to the next.
                forget = partial(self.means.log.forget, placement.record)
                await self.means.sender.once_paid(account, forget, self.job.job_id)
        elif account is not None:
            self.means.settle.later(placement.placed, account, placement.record)
