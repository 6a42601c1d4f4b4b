"""One channel as its signer counts it: what receipts closed, what open segments may cost, what is promised (R-21)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from retally.errors import InvalidReceipt
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.voucher import ChannelId, Voucher
from retally_router.open_segments import OpenSegment, OpenSegments, SegmentKey

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
    closed: int = 0
    promised: int = 0
    delivered: int = 0
    claimed: int = 0
    wanted: int = 0
    pending: dict[int, int] = field(default_factory=dict)
    open: OpenSegments = field(default_factory=OpenSegments)
    reopened: set[SegmentKey] = field(default_factory=set)
    #: By job: what closed segments cost beyond what was promised for them.
    owing: dict[bytes, int] = field(default_factory=dict)
    once_promised: deque[tuple[int, Act]] = field(default_factory=deque)
    once_paid: deque[tuple[int, Act]] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: The receipts that the next write puts on record.
    batch: ReceiptBatch | None = None
    asked: int = 0
    signed: SignedVoucher | None = None
    signing: asyncio.Task[None] | None = None
    #: Whether what is on record may be more than is counted here.
    is_unsure: bool = False

    @property
    def own_due(self) -> int:
        """The most that is due by our own count."""
        waiting = sum(to - start for start, to in self.pending.items())
        return self.closed + waiting + self.open.upper

    @property
    def limit(self) -> int:
        """What the node can have counted at all, however far behind we read."""
        waiting = sum(to - start for start, to in self.pending.items())
        return self.closed + waiting + self.open.limit

    @property
    def slack(self) -> int:
        """What open segments can be due for beyond what we saw of them."""
        return self.open.slack

    @property
    def has_to_act(self) -> bool:
        """Whether something waits no more: what is promised or delivered has grown by another job's voucher."""
        promised, paid = self.once_promised, self.once_paid
        return bool(promised and promised[0][0] <= self.promised) or bool(paid and paid[0][0] <= self.delivered)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open, missing, undelivered or on its way to the record."""
        if self.batch is not None or self.lock.locked() or self.once_promised:
            return False
        return not self.open and not self.pending and not self.once_paid and self.delivered >= self.wanted

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
        self.wanted = max(self.wanted, min(self.claimed, self.own_due + self.slack))
        return self.wanted >= due

    def reopen(self, segments: Mapping[SegmentKey, OpenSegment]) -> None:
        """Opens what is on record as open; a crash may have come between counting a receipt and saying so."""
        self.open.add(segments)
        self.reopened.update(segments)

    def close(self, segment: SegmentKey, receipt: JobReceipt) -> None:
        """Moves the money line by a checked receipt; receipts of parallel streams may come out of order."""
        if segment not in self.open:
            return
        if receipt.fee and not (segment in self.reopened and self._is_counted(receipt)):
            self._place(receipt.cum_from, receipt.cum_to)
        short = receipt.fee - self.open[segment].share
        if short > 0:
            self.owing[segment[0]] = self.owing.get(segment[0], 0) + short
        del self.open[segment]
        self.reopened.discard(segment)
        # Also for what an earlier life counted beyond this receipt, and may not have paid.
        self.note_due(max(self.closed, receipt.cum_to if receipt.fee else 0))

    def _shares(self, more: int) -> tuple[dict[str, int], dict[SegmentKey, int]]:
        """Which jobs and open segments a further promise is for: what they hold aside shrinks by as much."""
        jobs: dict[str, int] = {}
        shares: dict[SegmentKey, int] = {}
        for job_id, owed in self.owing.items():
            jobs[job_id.hex()] = share = max(0, min(more, owed))
            more -= share
        for key, segment in self.open.items():
            if more <= 0:
                break
            share = max(0, min(more, segment.upper + segment.slack - segment.share))
            if share:
                shares[key], more = share, more - share
                jobs[key[0].hex()] = jobs.get(key[0].hex(), 0) + share
        return jobs, shares

    def _share(self, shares: Mapping[SegmentKey, int]) -> None:
        """Notes for which segments a promise was made, those that are still open."""
        for key, amount in shares.items():
            if key in self.open:
                self.open[key].share += amount
        if self.promised >= self.closed:
            self.owing.clear()

    def _note_promised(self, total: int) -> None:
        """More is on record than is counted here, say by a promise whose answer was lost."""
        if total > self.promised:
            _, shares = self._shares(total - self.promised)
            self.promised = total
            self._share(shares)

    def _is_counted(self, receipt: JobReceipt) -> bool:
        return receipt.cum_to <= self.closed or self.pending.get(receipt.cum_from) == receipt.cum_to

    def _place(self, start: int, to: int) -> None:
        if start < self.closed or any(start < other_to and other < to for other, other_to in self.pending.items()):
            raise InvalidReceipt("R-20 tiling", f"cumFrom >= {self.closed}", f"[{start}, {to})")
        if to > max(self.limit, self.promised):
            raise InvalidReceipt("R-21 due", f"cumTo <= {self.limit}", to)
        self.pending[start] = to
        while self.closed in self.pending:
            self.closed = self.pending.pop(self.closed)

    async def voucher(self, cumulative: int) -> SignedVoucher:
        """A voucher over that total or more; all who ask in the meantime share one promise and one signature."""
        self.asked = max(self.asked, cumulative)
        while self.signed is None or self.signed[0].cumulative < cumulative:
            if self.signing is None:
                # It begins in the loop's next turn: whoever asks in this one is in it.
                self.signing = asyncio.create_task(self._sign())
                self.signing.add_done_callback(look_at)
            await asyncio.shield(self.signing)
        return self.signed

    async def _sign(self) -> None:
        # The total is on record before it is signed; never less than promised before.
        try:
            if self.is_unsure and self.total is not None:
                # What is there already is held by no job: it is not to be held once more.
                self._note_promised(await self.total(self.channel))
            self.is_unsure = False
            asked = max(self.asked, self.promised)
            jobs, shares = self._shares(asked - self.promised)
            promised = await self.promise(self.channel, asked, jobs)
            if promised > asked:
                self._note_promised(promised)
            else:
                self.promised = max(self.promised, promised)
                self._share(shares)
            channel = self.channel
            voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, self.promised)
            self.signed = voucher, self.key.sign(voucher.digest(self.domain))
        except BaseException:
            # Whoever asked hears of it: the next voucher is for what is wanted then, which somebody holds.
            self.asked, self.is_unsure = self.promised, True
            raise
        finally:
            self.signing = None


def look_at(work: asyncio.Task[None]) -> None:
    """Whoever still waits hears of a failure; nobody may be left to."""
    if not work.cancelled():
        work.exception()
