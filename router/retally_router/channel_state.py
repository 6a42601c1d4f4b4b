"""One channel as its signer counts it: what receipts closed, what open segments may cost, what is promised (R-21)."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from retally.errors import InvalidReceipt
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.voucher import ChannelId, Voucher
from retally_router.open_segments import OpenSegment, OpenSegments, SegmentKey
from retally_router.shares import Shares, shares_of
from retally_router.tiling import Tiling

Act = Callable[[], Awaitable[None]]
SignedVoucher = tuple[Voucher, bytes]


@dataclass(slots=True)
class ReceiptBatch:
    """Receipts of one channel that are put on record together, and the segments that they close."""

    work: asyncio.Task[None]
    leaves: list[ReceiptLeaf] = field(default_factory=list)
    segments: dict[SegmentKey, OpenSegment] = field(default_factory=dict)


@dataclass(slots=True)
class ChannelAccount:
    """The money line of one channel, seen from the signer."""

    channel: ChannelId
    key: SigningKey
    domain: Domain
    endpoint: str
    promise: Callable[[ChannelId, int, Mapping[str, int]], Awaitable[int]]
    #: The highest total on record, to be asked for where a promise failed: it may be there all the same.
    total: Callable[[ChannelId], Awaitable[int]] | None = None
    tiling: Tiling = field(default_factory=Tiling)
    promised: int = 0
    #: Whether another process may have written to the channel since it was read.
    is_shared: bool = False
    delivered: int = 0
    #: The most that the node said is due, and that receipts say.
    claimed: int = 0
    open: OpenSegments = field(default_factory=OpenSegments)
    reopened: set[SegmentKey] = field(default_factory=set)
    #: By job: what closed segments cost beyond what was promised for them.
    owing: dict[bytes, int] = field(default_factory=dict)
    #: What waits until so much is on record and nothing is owing for that job, and what waits no more.
    once_promised: list[tuple[int, bytes, Act]] = field(default_factory=list)
    now_promised: deque[tuple[int, Act]] = field(default_factory=deque)
    once_paid: deque[tuple[int, Act]] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: The receipts that the next write puts on record.
    batch: ReceiptBatch | None = None
    asked: int = 0
    #: The total that this account put on record, or found there.
    recorded: int = 0
    signed: SignedVoucher | None = None
    recording: asyncio.Task[None] | None = None
    #: Whether more may be on record than is counted here, and by total what promises without an answer were for.
    is_unsure: bool = False
    unheard: dict[int, Shares] = field(default_factory=dict)

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
    def most(self) -> int:
        """The most that may be promised: what jobs hold for this channel, and what was billed in any case."""
        return max(self.needed, self.promised + sum(self.owing.values()) + self.open.limit - self.open.share)

    @property
    def needed(self) -> int:
        """The least total by which each ended job paid for itself, and none with what was promised for another."""
        return self.tiling.billed + self.open.share

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
        self.open.add(segments)
        return max(self.promised, self.own_due + slack)

    def most_before(self, segments: Mapping[SegmentKey, OpenSegment]) -> int:
        """What the node can have counted at all while it has made nothing of these: their input, the others' limits."""
        return self.limit - sum(segment.limit - segment.upper for segment in segments.values())

    def note_due(self, due: int) -> bool:
        """Takes a node's `due` as owed, as far as our own count bears it out; whether it does in full."""
        self.claimed = max(self.claimed, due)
        return self.wanted >= due

    def reopen(self, segments: Mapping[SegmentKey, OpenSegment]) -> None:
        """Opens what is on record as open; a crash may have come between counting a receipt and saying so."""
        self.open.add(segments)
        self.reopened.update(segments)

    def close(self, segment: SegmentKey, receipt: JobReceipt, beside: int = 0) -> None:
        """Moves the money line by a checked receipt; receipts of parallel streams may come out of order.

        Other processes' open jobs on the channel may cost so much beside those that are counted here.
        """
        if segment not in self.open:
            return
        if receipt.fee and not (segment in self.reopened and self.tiling.has(receipt.cum_from, receipt.cum_to)):
            self._place(receipt.cum_from, receipt.cum_to, self.limit + beside)
        known = self.open[segment]
        del self.open[segment]
        short = receipt.fee - known.share
        if short > 0 and not known.is_charged:
            self.owing[segment[0]] = self.owing.get(segment[0], 0) + short
        known.is_charged = True
        self.reopened.discard(segment)
        # Also for what an earlier life counted beyond this receipt, and may not have paid.
        self.note_due(max(self.tiling.closed, receipt.cum_to if receipt.fee else 0))
        self._look_again()

    def take_in(self, recorded: Tiling) -> None:
        """Counts what is on record, whoever put it there: another process may have had the lane meanwhile."""
        if self.tiling.add_all(recorded):
            self.is_shared = True
            # It may have settled what runs here, too.
            self.reopened.update(self.open)
            self._look_again()

    def spread(self) -> None:
        """Of what an earlier life promised: what closed receipts do not cost was for open segments, whichever."""
        spare = self.promised - self.needed
        for key, segment in self.open.items():
            share = max(0, min(spare, segment.limit - segment.share))
            self.open.give(key, share)
            spare -= share

    def _share(self, shares: Shares) -> None:
        """Notes for what a promise was made."""
        for job_id, amount in shares.owing.items():
            self._pay(job_id, amount)
        for key, amount in shares.open.items():
            if key in self.open and not self.open[key].is_charged:
                self.open.give(key, amount)
            else:
                # Its receipt came while the promise was on its way, and was counted without it.
                self._pay(key[0], amount)
        self._look_again()

    def _look_again(self) -> None:
        if self.promised >= self.needed:
            self.owing.clear()
        waiting, self.once_promised = self.once_promised, []
        for each in waiting:
            if self.has_promised(each[0], each[1]):
                # Whatever total it waited for: what is wanted may have fallen below.
                self.now_promised.append((0, each[2]))
            else:
                self.once_promised.append(each)

    def has_promised(self, wanted: int, job_id: bytes) -> bool:
        """Whether so much of what is owed is on record, and all of what this job owes beyond what was for it before."""
        return self.promised >= min(wanted, self.wanted) and job_id not in self.owing

    def _pay(self, job_id: bytes, amount: int) -> None:
        left = self.owing.pop(job_id, 0) - amount
        if left > 0:
            self.owing[job_id] = left

    def _note_promised(self, total: int) -> None:
        """More is on record than is counted here, by a promise whose answer was lost or by another process."""
        found = max((asked for asked in self.unheard if asked <= total), default=0)
        if found > self.promised:
            shares = self.unheard[found].first(found - self.promised)
            self.promised = found
            self._share(shares)
        if total > self.promised:
            # Of one that has the lane meanwhile: nobody knows for which jobs, and those may be counted here too.
            shares = shares_of(total - self.promised, self.owing, self.open)
            self.promised, self.is_shared = total, True
            self._share(shares)

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
        # A segment that ended without a receipt may have left what another job owes.
        self._look_again()
        if self.signed is None or self.signed[0].cumulative < cumulative:
            await self.put_on_record(max(cumulative, self.promised))
        if self.signed is None or self.signed[0].cumulative < min(cumulative, self.promised):
            channel = self.channel
            voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, self.promised)
            self.signed = voucher, self.key.sign(voucher.digest(self.domain))
        return self.signed

    async def put_on_record(self, cumulative: int) -> None:
        """Promises that total or more, and what ended jobs still have to pay for themselves; nothing is signed."""
        while self.recorded < min(cumulative, self.most):
            self.asked = max(self.asked, cumulative)
            if self.recording is None:
                # It begins in the loop's next turn: whoever asks in this one is in it.
                self.recording = asyncio.create_task(self._record())
                self.recording.add_done_callback(look_at)
            await asyncio.shield(self.recording)

    async def _record(self) -> None:
        # The total is on record before it is signed; never less than promised before.
        try:
            if self.is_unsure and self.total is not None:
                # What is there already is held by no job: it is not to be held once more.
                self._note_promised(await self.total(self.channel))
            self.is_unsure = False
            # Who asks from here on asks again after it.
            asked, self.asked = max(self.asked, self.needed), 0
            shares = shares_of(asked - self.promised, self.owing, self.open)
            total = max(self.needed, self.promised + shares.total)
            # What it is for, should its answer be lost.
            self.unheard[total] = shares
            promised = await self.promise(self.channel, total, shares.jobs)
            if promised > total:
                self._note_promised(promised)
            else:
                self.promised = max(self.promised, promised)
                self._share(shares)
            self.unheard = {each: known for each, known in self.unheard.items() if each > self.promised}
            self.recorded = self.promised
        except BaseException:
            # Whoever asked hears of it: the next voucher is for what is wanted then, which somebody holds.
            self.asked, self.is_unsure = 0, True
            raise
        finally:
            self.recording = None


def look_at(work: asyncio.Task[None]) -> None:
    """Whoever still waits hears of a failure; nobody may be left to."""
    if not work.cancelled():
        work.exception()
