"""Serves one job: the best node that takes it, its stream checked and paid, another node if it dies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

import structlog
from redis.exceptions import RedisError

from retally.errors import (
    BadRequest,
    InvalidReceipt,
    InvalidSignature,
    NodeUnavailable,
    RetallyError,
    UpstreamTimeout,
)
from retally.protocol.receipt import ReceiptLeaf
from retally_router import failover
from retally_router.allowance import Held
from retally_router.channels import Channels
from retally_router.check_frames import ChoiceState, Taken
from retally_router.credit import Credit
from retally_router.directory import Directory, Listed
from retally_router.job_log import JobLog
from retally_router.keys import Session
from retally_router.metrics import Metrics
from retally_router.observed import Watch
from retally_router.placement import Frame, Job, Placement
from retally_router.placing import Placer
from retally_router.settle_jobs import SettleJobs
from retally_router.vouchers import VoucherSender

log = structlog.get_logger(__name__)

CHEATS = (InvalidReceipt, InvalidSignature, BadRequest)
# Said by a node about the request itself: another node would say the same.
FINAL = frozenset({400, 401, 404, 413, 422})
NOT_FINAL_CODES = frozenset({"offer_expired", "price_above_max", "remote_error"})


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


@dataclass(slots=True)
class ServeJob:
    """One job from its first node to its last receipt."""

    means: Means
    job: Job
    candidates: list[Listed]
    choices: list[ChoiceState] = field(default_factory=list)
    placement: Placement | None = None
    continuations: int = 0
    prompt_tokens: int = 0
    unsettled: int = 0
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
        tries = self.candidates[: self.means.max_attempts]
        error: RetallyError = NodeUnavailable("no node could take the job")
        ends = time.monotonic() + self.means.first_seconds
        for number, node in enumerate(tries, 1):
            if time.monotonic() >= ends:
                break
            self.candidates.remove(node)
            try:
                await self._place_until(ends, node, self.job.request.max_fee, is_last=number == len(tries))
                return
            except RetallyError as refusal:
                error = refusal
                self._note_refusal(node, refusal)
                if is_final(refusal):
                    raise
        raise failover.told(error, len(tries))

    async def next(self) -> list[Frame]:
        """More checked frames, ready to be forwarded; none when the answer is whole. Raises when it can't be."""
        while not self.over:
            frames: list[Frame] = []
            if self.failure is None:
                try:
                    await self._read(frames)
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
                self.means.watch.ended(placement.placed.node.node)
                await self._end_placement(placement)
            if isinstance(self.job.caller, Session):
                job_id, account = self.job.job_id.hex(), placement.account if placement else None
                await self.means.settle.release(self.job.request.payer, job_id, account)
        except RedisError as error:
            # The answer is out already: its books are tidied up in the background.
            log.warning("job_not_tidied", job=self.job.job_id.hex(), error=str(error))
            if placement is not None and placement.account is not None:
                self.means.settle.later(placement.placed, placement.account, placement.record)
            if isinstance(self.job.caller, Session):
                self.means.settle.release_later(self.job.request.payer, self.job.job_id.hex())

    @property
    def receipts(self) -> list[ReceiptLeaf]:
        """All receipts so far, in the order of choices and segments."""
        return [leaf for choice in self.choices for leaf in choice.receipts]

    @property
    def cost(self) -> int:
        """What they bill."""
        return failover.paid_so_far(self.choices)

    async def _place_until(self, ends: float, node: Listed, remaining_fee: int, *, is_last: bool) -> None:
        # All nodes share the time of one: behind several there may be one stuck engine. Half of it is left for others.
        left = ends - time.monotonic()
        seconds = left if is_last else left / 2
        try:
            async with asyncio.timeout(seconds):
                await self._place(node, remaining_fee)
        except TimeoutError as error:
            raise UpstreamTimeout(f"the node began no answer within {seconds:.3g} s") from error

    async def _place(self, node: Listed, remaining_fee: int) -> None:
        self.began_at, self.first_at = time.monotonic(), None
        self.node = node.node
        self.means.watch.began(node.node)
        try:
            self.placement = await self.means.placer.place(
                self.job, node, failover.unfinished(self.choices), remaining_fee
            )
        except BaseException:
            self.means.watch.ended(node.node)
            raise

    async def _read(self, frames: list[Frame]) -> None:
        placement = self.placement
        assert placement is not None
        found = await placement.next()
        for frame in found:
            await self._take(placement, frame)
            if self.continuations and failover.is_repeated_opening(frame):
                continue
            if self.continuations and frame.value.get("usage"):
                frame = failover.whole_usage(frame.value, self.choices, self.prompt_tokens)
            self.last = frame
            frames.append(frame)
        if not found:
            if failover.unfinished(self.choices):
                raise NodeUnavailable("the node ended without a receipt")
            self.over = True

    async def _take(self, placement: Placement, frame: Frame) -> None:
        try:
            await self._note(placement, placement.checker.take(frame.value))
        except CHEATS as error:
            await self.means.log.add_fault(placement.placed, error.message, frame.value)
            raise

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

    async def _note(self, placement: Placement, taken: Taken) -> None:
        if taken.prompt_tokens is not None and not self.prompt_tokens:
            self.prompt_tokens = taken.prompt_tokens
        if taken.tokens and self.first_at is None:
            self.first_at = time.monotonic()
            self.means.watch.first_token(placement.placed.node.node, self.first_at - self.began_at)
        account = placement.account
        if account is None:
            if taken.receipt is not None:
                await self.means.log.add_receipt(taken.receipt, None)
            return
        if taken.tokens and taken.choice is not None:
            choice = self.choices[taken.choice]
            segment = account.open.get((self.job.job_id, choice.index, choice.segment))
            if segment is not None:
                segment.output += taken.tokens
        if taken.chunk is not None and not account.note_due(taken.chunk.due):
            # Not yet borne out by what was read of the channel's other streams; it is asked again with each chunk.
            log.info("due_not_borne_out", node=account.channel.node, due=taken.chunk.due, own=account.own_due)
        if taken.receipt is not None:
            segment_number = self.choices[taken.receipt.receipt.choice].segment
            await self.means.channels.close_segment(account, taken.receipt, segment_number)
        if taken.chunk is not None or taken.receipt is not None:
            self.means.sender.pay(account)

    def _leave(self, error: RetallyError) -> None:
        placement, self.placement = self.placement, None
        assert placement is not None
        node = placement.placed.node.node
        placement.stream.close()
        self.means.watch.ended(node)
        self._note_refusal(placement.placed.node, error)
        account, record = placement.account, placement.record
        if account is not None:
            keys = [(self.job.job_id, choice, segment) for choice, segment, _ in record.segments]
            self.unsettled += sum(account.open[key].upper for key in keys if key in account.open)
            self.means.settle.later(placement.placed, account, record)

    def _answer_limit(self) -> int:
        room = max(node.offer.max_context for node in self.offered) - self.prompt_tokens
        return min(self.job.request.max_output, room)

    async def _go_on(self, error: RetallyError) -> None:
        """The next node that can continue exactly; raises the error when there is none."""
        if not isinstance(self.job.caller, Session):
            raise failover.broken(error)
        ends = time.monotonic() + self.means.first_seconds
        while self.candidates and self.continuations < self.means.max_continuations and time.monotonic() < ends:
            node = self.candidates.pop(0)
            self.continuations += 1
            is_last = not self.candidates or self.continuations == self.means.max_continuations
            failover.cut_over(failover.unfinished(self.choices))
            left = max(0, self.job.request.max_fee - self.cost - self.unsettled)
            try:
                await self._place_until(ends, node, left, is_last=is_last)
            except RetallyError as refusal:
                self._note_refusal(node, refusal)
                continue
            self.means.metrics.continuations.inc()
            return
        raise failover.broken(error)

    def _note_refusal(self, node: Listed, error: RetallyError) -> None:
        log.info("node_failed", node=node.node, job=self.job.job_id.hex(), code=error.code, error=error.message)
        self.means.metrics.node_failures.labels(node=node.node, code=error.code).inc()
        if isinstance(error, CHEATS):
            self.means.watch.cheated(node.node, error.message)
            log.error("node_cheated", node=node.node, job=self.job.job_id.hex(), what=error.message)
        elif not is_final(error) and error.status not in (402, 409):
            self.means.watch.failed(node.node)

    async def _end_placement(self, placement: Placement) -> None:
        node, account = placement.placed.node.node, placement.account
        if not failover.unfinished(self.choices) and not placement.is_open:
            tokens = sum(len(choice.ids) for choice in self.choices)
            seconds = time.monotonic() - (self.first_at or self.began_at)
            self.means.watch.succeeded(node, tokens // len(self.choices), seconds)
            if account is not None:
                # Not before: a router that dies before its last voucher is out leaves it to the next.
                await self.means.sender.once_paid(account, partial(self.means.log.forget, placement.record))
        elif account is not None:
            self.means.settle.later(placement.placed, account, placement.record)


def is_final(error: RetallyError) -> bool:
    """Whether every other node would refuse the same."""
    return error.status in FINAL and error.code not in NOT_FINAL_CODES and not isinstance(error, CHEATS)
