"""One choice of one segment: decode, count, sign chunks, wait for money, close with a receipt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from retally.errors import NodeUnavailable, RetallyError, UpstreamTimeout, VoucherTooLow
from retally.inference.tool_calls import ToolCall
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Bytes32
from retally.protocol.job import job_seed
from retally.protocol.merkle import IdsTree, OutputTree, output_root, quantise_logprob
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt
from retally_node.admission import AdmittedJob
from retally_node.decode import Piece, PieceMaker
from retally_node.ledger import Ledger
from retally_node.openai_shape import TokenLogprob
from retally_node.ports import Clock
from retally_node.records import ChunkRecord, JobRecord, ReceiptRecord, SegmentRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentWork:
    """What every segment needs to be served."""

    decoder: PieceMaker
    ledger: Ledger
    key: SigningKey
    domain: Domain
    clock: Clock
    model_id: Bytes32
    profile_id: Bytes32
    chunk_tokens: int
    voucher_wait_seconds: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of one choice, ready to leave: what it depends on is on disk."""

    choice: int
    output_from: int
    tokens: tuple[TokenLogprob, ...] = ()
    quantised: tuple[int, ...] = ()
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: FinishReason | None = None
    chunk: ChunkRecord | None = None
    receipt: ReceiptRecord | None = None
    error: RetallyError | None = None

    @property
    def last(self) -> bool:
        """Whether the choice is closed."""
        return self.finish is not None


class SegmentRun:
    """The life of one segment, from its turn at the engine to its receipt."""

    def __init__(
        self, job: AdmittedJob, segment: SegmentRecord, work: SegmentWork, emit: Callable[[Frame], None]
    ) -> None:
        self._job = job
        self._segment = segment
        self._work = work
        self._emit = emit
        self._money = job.channel.open[segment.key]
        self._tree = OutputTree(segment.key.output_from)
        self._ids: list[int] = []
        self._quantised: list[int] = []
        self._signed = 0
        self._vouch_first = 0
        self._sent = 0
        self._delivered = 0
        self._moved_on = asyncio.Event()
        self._closing = False
        self.ended = False
        self._stop_reason: FinishReason | None = None
        self._producing: asyncio.Task[None] | None = None

    @property
    def choice(self) -> int:
        """Which choice this is."""
        return self._segment.key.choice

    def stop(self, reason: FinishReason) -> None:
        """End at what was delivered, unless the end is already being written."""
        if self._closing or self._stop_reason is not None:
            return
        self._stop_reason = reason
        if self._producing is not None:
            self._producing.cancel()

    def delivered(self, frame: Frame) -> None:
        """A frame has left towards the client."""
        self._delivered = max(self._delivered, frame.output_from - self._segment.key.output_from + len(frame.tokens))
        self._moved_on.set()

    async def run(self, turns: asyncio.Semaphore) -> None:
        """Decode to the end, or close early with what was delivered."""
        self._producing = asyncio.create_task(self._produce(turns))
        if self._stop_reason is not None:
            self._producing.cancel()
        error: RetallyError | None = None
        try:
            await self._producing
        except asyncio.CancelledError:
            if self._stop_reason is None:
                self._producing.cancel()
                raise
        except RetallyError as caught:
            error = caught
        except Exception as caught:  # a bug must still close the books and reach the client as an error
            log.exception("job %s failed", self._segment.key.job_id.hex())
            error = RetallyError(f"the node failed: {type(caught).__name__}")
        if not self._closing:
            reason = self._stop_reason or _reason_of(error)
            await self._close_early(reason, error or _error_of(reason))

    async def _produce(self, turns: asyncio.Semaphore) -> None:
        async with turns, aclosing(self._work.decoder.pieces(self._job, self._segment)) as pieces:
            async for piece in pieces:
                await self._advance(piece)

    async def _advance(self, piece: Piece) -> None:
        start = self._segment.key.output_from + len(self._ids)
        ids = [token.id for token in piece.tokens]
        quantised = tuple(quantise_logprob(token.logprob) for token in piece.tokens)
        self._ids += ids
        self._quantised += quantised
        self._tree.append(ids, quantised)
        self._money.fee = self._fee(len(self._ids), 0)
        ends_chunk = len(self._ids) - self._signed >= self._work.chunk_tokens
        signs = ends_chunk or (piece.finish is not None and bool(self._ids))
        if signs and self._job.submission.stream:
            await self._wait_until_read(self._signed)
        if piece.finish is not None:
            self._closing = True
        chunk = await self._sign_chunk() if signs else None
        receipt = None if piece.finish is None else await self._close(piece.finish, len(self._ids), piece.cached_tokens)
        if piece.tokens or piece.finish is not None:
            self._sent = len(self._ids)
            said = (piece.text, piece.calls, piece.finish)
            self._send(Frame(self.choice, start, piece.tokens, quantised, *said, chunk, receipt))
        if chunk is not None and receipt is None:
            await self._wait_for_money(chunk.chunk.due)

    async def _sign_chunk(self) -> ChunkRecord:
        key = self._segment.key
        chunk = Chunk(
            job_id=Bytes32(key.job_id),
            choice=key.choice,
            segment=self._segment.segment,
            node=self._work.key.address,
            output_from=key.output_from,
            output_to=key.output_from + len(self._ids),
            output_root=self._tree.root(),
            due=self._job.channel.due,
        )
        signature = self._work.key.sign(chunk.digest(self._work.domain))
        record = ChunkRecord(chunk, signature, self._ids[self._signed :], self._quantised[self._signed :])
        self._signed = len(self._ids)
        await self._work.ledger.jobs.record_chunk(record)
        return record

    async def _wait_until_read(self, count: int) -> None:
        """A chunk is signed once all before it have left: recovery bills all chunks but the last, so they were sent."""
        try:
            async with asyncio.timeout(self._work.voucher_wait_seconds):
                while self._delivered < count:
                    self._moved_on.clear()
                    await self._moved_on.wait()
        except TimeoutError as error:
            self._stop_reason = FinishReason.CANCELLED
            raise UpstreamTimeout("the client reads nothing of its answer") from error

    async def _wait_for_money(self, due: int) -> None:
        """Beyond the credit granted, the chunk before the last one must be vouched for."""
        required, self._vouch_first = self._vouch_first, due
        if not self._job.secured or self._job.channel.best >= required:
            return
        if not await self._job.channel.wait_until_vouched(required, self._work.voucher_wait_seconds):
            raise VoucherTooLow(required, self._job.channel.best)

    async def _close_early(self, reason: FinishReason, error: RetallyError) -> None:
        self._closing = True
        leaving = reason == FinishReason.CANCELLED or not self._job.submission.stream
        # Tokens that were cut off on their way out reach nobody and bill nobody.
        count = self._delivered if leaving else self._sent
        receipt = await self._close(reason, count, 0)
        start = self._segment.key.output_from + count
        self._send(Frame(self.choice, start, finish=reason, receipt=receipt, error=error))

    def abandon(self) -> None:
        """End the stream of a segment whose books could not be closed; a restart closes them."""
        error = NodeUnavailable("this node can't write its books", hint="continue on another node")
        self._send(Frame(self.choice, self._segment.key.output_from, finish=FinishReason.MOVED, error=error))

    def _send(self, frame: Frame) -> None:
        self.ended = self.ended or frame.last
        self._emit(frame)

    async def _close(self, reason: FinishReason, count: int, cached_tokens: int) -> ReceiptRecord:
        """R-20: the receipt takes its place on the money line in the instant it closes."""
        fee = self._fee(count, cached_tokens)
        record = write_receipt(
            self._work,
            self._job.record,
            self._segment,
            cum_from=self._job.channel.last_cum,
            fee=fee,
            ids=self._ids[:count],
            quantised=self._quantised[:count],
            cached_tokens=self._billable_cached(cached_tokens),
            reason=reason,
        )
        self._job.channel.last_cum += fee
        del self._job.channel.open[self._segment.key]
        await self._work.ledger.jobs.close(record, self._job.channel)
        return record

    def _billable_cached(self, cached_tokens: int) -> int:
        key = self._segment.key
        first_of_prompt = key.choice == 0 and key.output_from == 0
        return min(cached_tokens, len(self._job.record.prompt_ids)) if first_of_prompt else 0

    def _fee(self, count: int, cached_tokens: int) -> int:
        return fee_round_down(
            self._job.offer.prices,
            prompt_tokens=len(self._job.record.prompt_ids),
            cached_tokens=self._billable_cached(cached_tokens),
            output_tokens=count,
            choice=self._segment.key.choice,
            output_from=self._segment.key.output_from,
        )


def write_receipt(
    work: SegmentWork,
    job: JobRecord,
    segment: SegmentRecord,
    *,
    cum_from: int,
    fee: int,
    ids: list[int],
    quantised: list[int],
    cached_tokens: int,
    reason: FinishReason,
) -> ReceiptRecord:
    """Fill in and sign a segment's receipt."""
    request, key = job.request, segment.key
    receipt = JobReceipt(
        job_id=Bytes32(key.job_id),
        choice=key.choice,
        payer=request.payer,
        signer=request.signer,
        node=work.key.address,
        lane=segment.channel.lane,
        cum_from=cum_from,
        cum_to=cum_from + fee,
        model_id=work.model_id,
        profile_id=work.profile_id,
        offer_hash=Bytes32(segment.offer_hash),
        prompt_root=IdsTree(job.prompt_ids).root(),
        prompt_tokens=len(job.prompt_ids),
        cached_tokens=cached_tokens,
        prefix_root=IdsTree(segment.prefix_ids).root(),
        output_from=key.output_from,
        output_to=key.output_from + len(ids),
        output_root=output_root(key.output_from, ids, quantised),
        params_hash=request.params_hash,
        seed=job_seed(request.client_seed, key.choice),
        finish_reason=reason,
        started_at=segment.started_at,
        finished_at=max(segment.started_at, work.clock.now()),
    )
    return _signed(work, receipt, ids, quantised)


def _signed(work: SegmentWork, receipt: JobReceipt, ids: list[int], quantised: list[int]) -> ReceiptRecord:
    digest = receipt.digest(work.domain)
    return ReceiptRecord(receipt, digest, work.key.sign(digest), ids, quantised)


def _reason_of(error: RetallyError | None) -> FinishReason:
    return FinishReason.UNPAID if isinstance(error, VoucherTooLow) else FinishReason.MOVED


def _error_of(reason: FinishReason) -> RetallyError:
    if reason == FinishReason.CANCELLED:
        return UpstreamTimeout("the client left")
    return NodeUnavailable("this node stopped in mid-answer", hint="continue on another node")
