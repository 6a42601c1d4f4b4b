"""What each channel owes, counted as R-20 to R-22 say; the ledger makes every change durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import ChannelState


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """A node's durable claim to one piece of one answer."""

    job_id: bytes
    choice: int
    output_from: int


@dataclass(slots=True)
class OpenSegment:
    """Money of a segment whose receipt is not closed: input prepaid, fee so far, and the most it can become."""

    prepaid: int
    max_fee: int = 0
    fee: int = 0

    @property
    def owed(self) -> int:
        """The larger of both: the input is owed before the first token is."""
        return max(self.prepaid, self.fee)


@dataclass(slots=True)
class Channel:
    """One growing number between a signer and this node."""

    id: ChannelId
    best: int = 0
    best_signature: bytes | None = None
    last_cum: int = 0
    collected: int = 0
    #: What of the closed is too old to be committed (R-54), at its end: no money will come for it.
    lost: int = 0
    open: dict[SegmentKey, OpenSegment] = field(default_factory=dict)
    _grown: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def due(self) -> int:
        """R-21."""
        return self.last_cum + sum(segment.owed for segment in self.open.values())

    @property
    def unpaid(self) -> int:
        """What is closed and not vouched for."""
        return max(0, self.last_cum - self.best)

    @property
    def committed(self) -> int:
        """What the escrow has not paid for yet, with open segments at the most they can cost."""
        worst = sum(max(segment.owed, segment.max_fee) for segment in self.open.values())
        # What was vouched for and got too old all the same is no debt of the payer's.
        forgiven = max(0, min(self.best, self.last_cum) - (self.last_cum - self.lost))
        return max(0, self.last_cum + worst - self.collected - min(forgiven, max(0, self.last_cum - self.collected)))

    @property
    def expected(self) -> int:
        """The same without all that is lost: it ties up nobody else's credit."""
        return self.committed - min(self.lost, self.unpaid)

    def state(self) -> ChannelState:
        """The channel as its signer may see it."""
        return ChannelState(
            best=self.best,
            best_signature=self.best_signature,
            last_cum_to=self.last_cum,
            due=self.due,
            open=len(self.open),
            unpaid=self.unpaid,
        )

    def accept(self, voucher: Voucher, signature: bytes) -> bool:
        """Keep a voucher if it promises more than the best one; an older one is harmless."""
        if voucher.cumulative <= self.best:
            return False
        self.best, self.best_signature = voucher.cumulative, signature
        for waiter in self._grown:
            if not waiter.done():
                waiter.set_result(None)
        self._grown.clear()
        return True

    async def wait_until_vouched(self, amount: int, timeout_seconds: float) -> bool:
        """Whether vouchers reached an amount in time."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while self.best < amount:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._grown.append(waiter)
            await asyncio.wait((waiter,), timeout=left)
        return True


class ChannelBook:
    """All channels of this node, in memory; `Ledger` holds the same on disk."""

    def __init__(self, channels: Iterable[Channel] = ()) -> None:
        self._channels: dict[bytes, Channel] = {channel.id.key: channel for channel in channels}

    def get(self, channel_id: ChannelId) -> Channel:
        """The channel, empty when it is new."""
        return self._channels.setdefault(channel_id.key, Channel(channel_id))

    def find(self, key: bytes) -> Channel | None:
        """The channel of a key, if known."""
        return self._channels.get(key)

    def drop_unused(self, channel: Channel) -> None:
        """Forgets a channel on which nothing was ever admitted, promised or paid."""
        if not (channel.open or channel.best or channel.last_cum or channel.collected):
            self._channels.pop(channel.id.key, None)

    def all(self) -> list[Channel]:
        """Every channel."""
        return list(self._channels.values())

    def expected(self) -> int:
        """What is still to come from all payers together, open segments at their most."""
        return sum(channel.expected for channel in self._channels.values())

    def committed(self, belongs: Callable[[ChannelId], bool] = lambda _: True) -> int:
        """What is not paid yet over the channels that belong, open segments at their most."""
        return sum(channel.committed for channel in self._channels.values() if belongs(channel.id))

    def committed_with(self, payer: str) -> int:
        """The same for one payer."""
        return self.committed(lambda channel_id: channel_id.payer == payer)
