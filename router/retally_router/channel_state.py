"""One channel as its signer counts it: what receipts closed, what open segments may cost, what is promised (R-21)."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from retally.errors import InvalidReceipt
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.voucher import ChannelId, Voucher
from retally_router.earmarks import Ask, Count, Earmark, Earmarks, Mark, Promised, asks_of
from retally_router.grouped_tasks import look_at
from retally_router.open_segments import OpenSegment, OpenSegments, SegmentKey
from retally_router.tiling import Tiling

#: Where nothing is known.
NOTHING: Mapping[str, Mark] = MappingProxyType({})

Act = Callable[[], Awaitable[None]]
SignedVoucher = tuple[Voucher, bytes]


@dataclass(slots=True)
class ReceiptBatch:
    """Receipts of one channel that are put on record together, and the segments that they close."""

    work: asyncio.Task[None]
    #: Each with its job's place.
    leaves: list[tuple[ReceiptLeaf, str]] = field(default_factory=list)
    segments: dict[SegmentKey, OpenSegment] = field(default_factory=dict)


@dataclass(slots=True)
class ChannelAccount:
    """The money line of one channel, seen from the signer."""

    channel: ChannelId
    key: SigningKey
    domain: Domain
    endpoint: str
    promise: Callable[[ChannelId, Sequence[Ask], Count], Awaitable[Promised]]
    tiling: Tiling = field(default_factory=Tiling)
    promised: int = 0
    #: Whether another process may have written to the channel since it was read.
    is_shared: bool = False
    delivered: int = 0
    #: The most that the node said is due, and that receipts say.
    claimed: int = 0
    open: OpenSegments = field(default_factory=OpenSegments)
    reopened: set[SegmentKey] = field(default_factory=set)
    #: What of the total is for the jobs that are open here, and by job, for which of them more has to be.
    earmarks: Earmarks = field(default_factory=Earmarks)
    owing: dict[bytes, dict[str, Earmark]] = field(default_factory=dict)
    #: What waits until a job owes nothing, and what waits no more.
    once_promised: list[tuple[bytes, Act]] = field(default_factory=list)
    now_promised: deque[tuple[int, Act]] = field(default_factory=deque)
    once_paid: deque[tuple[int, Act]] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: The receipts that the next write puts on record.
    batch: ReceiptBatch | None = None
    asked: int = 0
    signed: SignedVoucher | None = None
    recording: asyncio.Task[bool] | None = None
    #: Whether that is on its way already: what is asked for now is not in it.
    is_sent: bool = False

    @property
    def own_due(self) -> int:
        """The most that is due by our own count."""
        return self.tiling.billed + self.open.upper

    @property
    def limit(self) -> int:
        """What the node can have counted at all, however far behind we read."""
        return self.tiling.billed + self.open.limit

    @property
    def wanted(self) -> int:
        """What the node is owed: what it claims, as far as our own count bears it out."""
        return min(self.claimed, self.own_due + self.slack)

    @property
    def slack(self) -> int:
        """What open segments can be due for beyond what we saw of them."""
        return self.open.slack

    @property
    def has_to_act(self) -> bool:
        """Whether something waits no more: what is promised or delivered has grown by another job's voucher."""
        return bool(self.now_promised) or bool(self.once_paid and self.once_paid[0][0] <= self.paid)

    @property
    def paid(self) -> int:
        """The total that the node has, or any: where that is all that it is owed now."""
        return sys.maxsize if self.delivered >= self.wanted else self.delivered

    @property
    def has_to_pay(self) -> bool:
        """Whether the node lacks a voucher, or something waits for a promise."""
        return self.wanted > self.delivered or self.has_to_act or bool(self.once_promised)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open, owed, undelivered or on its way to the record."""
        is_busy = self.batch is not None or self.recording is not None or self.lock.locked()
        is_owing = bool(self.open or self.owing or self.once_paid)
        return not is_busy and not is_owing and not self.has_to_pay

    def admit(self, segments: Mapping[SegmentKey, OpenSegment]) -> int:
        """Opens a job's segments; answers the total that its voucher has to promise before prefill (R-22)."""
        slack = self.slack
        self._open(segments, is_own=True)
        return max(self.promised, self.own_due + slack)

    def most_before(self, segments: Mapping[SegmentKey, OpenSegment]) -> int:
        """What the node can have counted at all while it has made nothing of these: their input, the others' limits."""
        return self.limit - sum(segment.limit - segment.upper for segment in segments.values())

    def note_due(self, due: int) -> bool:
        """Takes a node's `due` as owed, as far as our own count bears it out; whether it does in full."""
        self.claimed = max(self.claimed, due)
        return self.wanted >= due

    def reopen(self, segments: Mapping[SegmentKey, OpenSegment], known: Mapping[str, Mark] = NOTHING) -> None:
        """Opens what is on record as open; a crash may have come between counting a receipt and saying so.

        By place, what is known to be for them, and what their receipts on record cost.
        """
        self._open(segments, is_own=False)
        self.reopened.update(segments)
        for place, there in known.items():
            mark = self.earmarks[place]
            self.earmarks.hear(mark, there.promised)
            if there.billed and len(mark.open) == 1:
                # Its only segment is billed: it costs nothing more.
                self.open.charge(*mark.open)
                self.earmarks.bill(mark, there.billed)
            self._note_owing([mark])

    def close(self, segment: SegmentKey, receipt: JobReceipt, beside: int = 0) -> None:
        """Moves the money line by a checked receipt; receipts of parallel streams may come out of order.

        Other processes' open jobs on the channel may cost so much beside those that are counted here.
        """
        if segment not in self.open:
            return
        if receipt.fee and not (segment in self.reopened and self.tiling.has(receipt.cum_from, receipt.cum_to)):
            self._place(receipt.cum_from, receipt.cum_to, self.limit + beside)
        known, mark = self.open[segment], self.earmarks[self.open[segment].place]
        if not known.is_charged:
            self.earmarks.bill(mark, receipt.fee)
        self._leave(segment)
        known.is_charged = True
        # Also for what an earlier life counted beyond this receipt, and may not have paid.
        self.note_due(max(self.tiling.closed, receipt.cum_to if receipt.fee else 0))

    def drop(self, keys: Iterable[SegmentKey]) -> None:
        """What costs nothing: its node refused it, or never had it."""
        for key in keys:
            if key in self.open:
                self._leave(key)

    def note_recorded(self, places: Iterable[str]) -> None:
        """Receipts of these jobs are on record: one that is new there makes it owe, if nobody had it open any more."""
        marks = [self.earmarks[place] for place in self.earmarks.keys() & set(places)]
        for mark in marks:
            mark.is_gone, mark.is_recorded = False, True
        self._note_owing(marks)

    def _open(self, segments: Mapping[SegmentKey, OpenSegment], *, is_own: bool) -> None:
        self.open.add(segments)
        for key, segment in segments.items():
            self.earmarks.of(segment.place, key[0], is_own=is_own).open.add(key)

    def _leave(self, key: SegmentKey) -> None:
        mark = self.earmarks[self.open[key].place]
        del self.open[key]
        self.reopened.discard(key)
        mark.open.discard(key)
        self._note_owing([mark])

    def _note_owing(self, marks: Iterable[Earmark]) -> None:
        """Whether these jobs owe something, and who waited for that."""
        for mark in marks:
            owing = self.owing.get(mark.job, {})
            if mark.owes:
                self.owing.setdefault(mark.job, owing)[mark.place] = mark
            elif owing.pop(mark.place, None) is not None and not owing:
                del self.owing[mark.job]
            if mark.is_over:
                self.earmarks.drop(mark)
        waiting, self.once_promised = self.once_promised, []
        for job, act in waiting:
            if self.has_promised(job):
                self.now_promised.append((0, act))
            else:
                self.once_promised.append((job, act))

    def take_in(self, recorded: Tiling) -> None:
        """Counts what is on record, whoever put it there: another process may have had the lane meanwhile."""
        if self.tiling.add_all(recorded):
            self.is_shared = True
            # It may have settled what runs here, too, and leave it to us that the node hears of it.
            self.reopened.update(self.open)
            self.note_due(self.tiling.closed)

    def has_promised(self, job_id: bytes) -> bool:
        """Whether all that a job's closed segments cost is for it on record, whatever is for others."""
        return job_id not in self.owing

    def _place(self, start: int, to: int, limit: int) -> None:
        if not self.tiling.is_free(start, to):
            raise InvalidReceipt("R-20 tiling", f"cumFrom >= {self.tiling.closed}", f"[{start}, {to})")
        if to > max(limit, self.promised):
            raise InvalidReceipt("R-21 due", f"cumTo <= {limit}", to)
        self.tiling.add(start, to)

    async def voucher(self, cumulative: int) -> SignedVoucher:
        """A voucher over that total or more; all who ask in the meantime share one promise and one signature.

        It is over less where nobody holds that much: who asked for it asked when other jobs were open.
        """
        if self.signed is None or self.signed[0].cumulative < cumulative:
            await self.put_on_record(cumulative)
        return self.signed_over(min(cumulative, self.promised))

    def signed_over(self, total: int) -> SignedVoucher:
        """A voucher over what is promised, where none over that much or more is signed yet."""
        if self.signed is None or self.signed[0].cumulative < total:
            channel = self.channel
            voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, self.promised)
            self.signed = voucher, self.key.sign(voucher.digest(self.domain))
        return self.signed

    async def put_on_record(self, cumulative: int, job_id: bytes | None = None) -> None:
        """Promises that total or more, and what closed segments cost by now, all or one job's; nothing is signed."""
        jobs = self.owing.values() if job_id is None else [self.owing.get(job_id, {})]
        owing = [(mark, mark.fees) for marks in jobs for mark in marks.values()]
        while self.promised < cumulative or any(mark.owes and mark.known < fee for mark, fee in owing):
            self.asked, is_late = max(self.asked, cumulative), self.is_sent
            if self.recording is None:
                # It begins in the loop's next turn: whoever asks in this one is in it.
                self.recording = asyncio.create_task(self._record())
                self.recording.add_done_callback(look_at)
            if not await asyncio.shield(self.recording) and not is_late:
                return

    async def _record(self) -> bool:
        # The total is on record before it is signed; never less than promised before.
        try:
            # Who asks from here on asks again after it.
            asked, self.asked, self.is_sent = self.asked, 0, True
            asks = self._asks(asked)
            if not asks and asked <= self.promised:
                return False
            # What nobody holds here another may have promised.
            count = Count(self.promised, self.earmarks.kept + self.tiling.billed, asked)
            found = await self.promise(self.channel, asks, count)
            is_more = self._note_promised(found)
            if found.uncovered is not None and not is_more:
                raise found.uncovered
            return is_more
        except BaseException:
            # Whoever asked hears of it: the next voucher is for what is wanted then, which somebody holds.
            self.asked = 0
            raise
        finally:
            self.recording, self.is_sent = None, False

    def _asks(self, total: int) -> list[Ask]:
        # What is spare is taken first, and makes no total.
        spare = self.promised - self.tiling.billed - self.earmarks.kept
        missing = total - self.promised + max(0, spare) if total > self.promised else 0
        beyond = total - self.own_due - self.slack
        owing = (mark for marks in self.owing.values() for mark in marks.values())
        return asks_of(owing, self.earmarks, self.open, missing, beyond)

    def _note_promised(self, found: Promised) -> bool:
        """Whether it is more than was known."""
        if found.before > self.promised:
            # By another process, or with an answer that was lost.
            self.is_shared = True
        is_more, self.promised = found.total > self.promised, max(self.promised, found.total)
        marks = [(self.earmarks[place], mark) for place, mark in found.earmarks.items() if place in self.earmarks]
        for mark, there in marks:
            if there is None:
                # Others settled it: what it bills was promised by them.
                mark.is_gone = self.is_shared = True
                self.earmarks.forget(mark)
            elif self.earmarks.hear(mark, there.promised):
                is_more = True
        self._note_owing(mark for mark, _ in marks)
        return is_more
