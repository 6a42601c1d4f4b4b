"""Puts a job on a node: assignments, the voucher before prefill, the submission, the first frame."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from retally.errors import (
    CapExceeded,
    ChainUnreachable,
    InsufficientFunds,
    RemoteError,
    RetallyError,
    SignerExpired,
    UpstreamTimeout,
    error_of_envelope,
)
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.job import Assignment
from retally.protocol.merkle import ids_root
from retally.protocol.wire import JobSubmission, SubmittedAssignment
from retally_router.authorize import SignedJob
from retally_router.begun_job import BegunJob
from retally_router.channel_state import ChannelAccount, SignedVoucher
from retally_router.channels import Channels, segments_of
from retally_router.check_frames import ChoiceState, FrameChecker, Placed
from retally_router.directory import Listed
from retally_router.job_log import JobLog, JobRecord, record_of
from retally_router.keys import Session
from retally_router.lanes import Lanes
from retally_router.node_time import NodeTime
from retally_router.open_segments import OpenSegment, SegmentKey
from retally_router.placement import Job, Placement, most_bytes_of
from retally_router.ports import NodeApi, NodeStream

#: What is read of a node's refusal.
MOST_REFUSAL_BYTES = 64 * 1024

Lost = Callable[[Placed, ChannelAccount, JobRecord], None]


class NodeRefused(RemoteError):
    """The node said no before it admitted anything, so nothing can become due."""


@dataclass(slots=True)
class Assigner:
    """Signs assignments; one counter for each life of a replica, so two orders never contradict."""

    key: SigningKey
    replica: int
    boot: int
    domain: Domain
    _counter: itertools.count[int] = field(default_factory=itertools.count)

    def assign(self, job: Job, node: Listed, choice: ChoiceState, remaining_fee: int) -> SubmittedAssignment:
        """One choice, from where it stands, on one node."""
        assignment = Assignment(
            job_id=job.job_id,
            router=self.key.address,
            replica=self.replica,
            boot=self.boot,
            counter=next(self._counter),
            node=node.node,
            offer_hash=node.offer_hash,
            choice=choice.index,
            segment=choice.segment,
            output_from=choice.output_from,
            prefix_root=ids_root(choice.ids[: choice.output_from]),
            remaining_fee=remaining_fee,
        )
        signature = self.key.sign(assignment.digest(self.domain))
        return SubmittedAssignment(assignment, signature, tuple(choice.ids[: choice.output_from]))


@dataclass(frozen=True, slots=True)
class _Order:
    """All that one submission needs."""

    job: Job
    placed: Placed
    record: JobRecord
    choices: Sequence[ChoiceState]
    assignments: tuple[SubmittedAssignment, ...]

    async def note(self) -> None:
        """For whoever repeats the request when this router is dead."""
        if self.job.repeatable is not None:
            await self.job.repeatable.note(BegunJob(self.record, self.job.signature, self.job.ask.params.to_json()))


class Placer:
    """Places jobs on nodes."""

    def __init__(
        self,
        api: NodeApi,
        channels: Channels,
        lanes: Lanes,
        log: JobLog,
        assigner: Assigner,
        *,
        lost: Lost,
        first_seconds: float,
    ) -> None:
        self._api = api
        self._channels = channels
        self._lanes = lanes
        self._log = log
        self._assigner = assigner
        self._lost = lost
        self._first_seconds = first_seconds

    async def place(
        self,
        job: Job,
        node: Listed,
        choices: Sequence[ChoiceState],
        remaining_fee: int,
        limit: NodeTime,
        *,
        is_spare: bool = False,
    ) -> Placement:
        """The job on that node, its first frame in hand; raises a StoreError if it is the store that is late."""
        caller = job.caller
        with limit.stopped():
            lane = await self._lanes.held() if isinstance(caller, Session) else caller.lane
        placed = Placed(self._assigner.domain, job.job_id, job.request, lane, node, job.prompt_tokens_at_most)
        segments = tuple((choice.index, choice.segment, choice.output_from) for choice in choices)
        order = self._order(job, placed, record_of(placed, segments), choices, remaining_fee)
        if isinstance(caller, SignedJob):
            return await self._submit(order, None, (caller.voucher, caller.voucher_signature))
        await self._channels.open(caller, placed, limit.stopped)
        paid = segments_of(placed, segments)
        most = min(remaining_fee, sum(segment.limit for segment in paid.values()))
        with limit.stopped():
            is_begun = any(choice.segment for choice in choices)
            await self._channels.cover(placed, most, is_begun=is_begun, is_spare=is_spare)
        # While that was waited for an idle one may have been forgotten. Nothing is awaited from here until this one has
        # the job's segments, and is in use.
        account = await self._channels.open(caller, placed, limit.stopped)
        return await self._place_paid(order, account, paid, limit)

    async def show(self, job: Job, placed: Placed, record: JobRecord, choices: Sequence[ChoiceState]) -> Placement:
        """The answer that the node has made for this job already: nothing more is promised for it."""
        assert isinstance(job.caller, Session)
        order = self._order(job, placed, record, choices, job.request.max_fee)
        return await self._submit(order, None, await self._channels.last_voucher(job.caller, placed))

    def _order(
        self, job: Job, placed: Placed, record: JobRecord, choices: Sequence[ChoiceState], remaining_fee: int
    ) -> _Order:
        assignments = tuple(self._assigner.assign(job, placed.node, choice, remaining_fee) for choice in choices)
        return _Order(job, placed, record, choices, assignments)

    async def _place_paid(
        self, order: _Order, account: ChannelAccount, segments: Mapping[SegmentKey, OpenSegment], limit: NodeTime
    ) -> Placement:
        try:
            total = account.admit(segments)
            # All are on record before the voucher leaves; they need not wait for one another.
            with limit.stopped():
                notes = self._log.begin(order.record), order.note()
                voucher = await _last_of(*notes, account.voucher(total))
            return await self._submit_paid(order, account, voucher, account.most_before(segments), limit)
        except (NodeRefused, CapExceeded, InsufficientFunds, SignerExpired, ChainUnreachable):
            # It refused, or no voucher was made: either way the node has nothing of it.
            account.drop(segments)
            await self._forget(order, account)
            raise
        except BaseException:
            # Whether the node took the job is unknown: ask it later, it may have earned something.
            self._lost(order.placed, account, order.record)
            raise

    async def _forget(self, order: _Order, account: ChannelAccount) -> None:
        try:
            await self._log.forget(order.record)
        except BaseException:
            # The client left, or the store broke off: it may be on record still, and nobody else would forget it.
            self._lost(order.placed, account, order.record)
            raise

    async def _submit_paid(
        self, order: _Order, account: ChannelAccount, voucher: SignedVoucher, most: int, limit: NodeTime
    ) -> Placement:
        try:
            return await self._submit(order, account, voucher)
        except NodeRefused as error:
            required = required_of(error, most=most)
            if required is None:
                raise
        with limit.stopped():
            voucher = await account.voucher(required)
        return await self._submit(order, account, voucher)

    async def _submit(self, order: _Order, account: ChannelAccount | None, voucher: SignedVoucher) -> Placement:
        job, placed = order.job, order.placed
        body = msgspec.json.encode(_submission(order, voucher))
        stream = await self._api.start_job(placed.node.endpoint, body, job.request_id)
        if stream.status != 200:
            raise await _refused(stream)
        if account is not None:
            account.delivered = max(account.delivered, voucher[0].cumulative)
        checker = FrameChecker(placed, order.choices, job.ask.params)
        placement = Placement(placed, account, order.record, checker, stream, whole=not job.ask.stream)
        placement.most_bytes = most_bytes_of(job.request)
        try:
            async with asyncio.timeout(self._first_seconds):
                await placement.wait_first()
        except TimeoutError as error:
            stream.close()
            raise UpstreamTimeout(f"the node began no answer within {self._first_seconds:g} s") from error
        except BaseException:
            stream.close()
            raise
        return placement


async def _last_of(*works: Awaitable[Any]) -> Any:
    """What the last of them answers, once all have ended: what one begins, a failure of another may undo."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found[-1]


def _submission(order: _Order, voucher: SignedVoucher) -> dict[str, Any]:
    job = order.job
    body = JobSubmission(
        request=job.request,
        request_signature=job.signature,
        prompt=job.ask.prompt,
        params=job.ask.params,
        assignments=order.assignments,
        lane=order.placed.lane,
        voucher=voucher[0],
        voucher_signature=voucher[1],
        stream=True,
        options=job.ask.options,
    ).to_wire()
    if isinstance(job.caller, SignedJob):
        body.update(job.caller.reservation)
    return body


async def _refused(stream: NodeStream) -> NodeRefused:
    try:
        raw = b""
        while len(raw) < MOST_REFUSAL_BYTES and (part := await stream.next()):
            raw += part
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RetallyError):
        body = None
    finally:
        stream.close()
    said = error_of_envelope(stream.status, body)
    return NodeRefused(stream.status, said.code, said.message, param=said.param, hint=said.hint, details=said.details)


def required_of(error: RemoteError, *, most: int) -> int | None:
    """The total that the node wants vouched before it admits, if that is plausible."""
    text = error.details.get("required")
    if error.code != "voucher_too_low" or not isinstance(text, str) or not text.isdecimal():
        return None
    return int(text) if int(text) <= most else None
