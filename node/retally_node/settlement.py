"""Turn vouchers into money: one root over the receipts, one `collect` for all channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retally.chain.escrow import CollectItem
from retally.chain.events import Collected
from retally.crash_points import crash_point
from retally.protocol.eip712 import Domain
from retally.protocol.merkle import receipts_root, sort_receipts
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.voucher import ChannelId, Voucher
from retally_node.channels import Channel, ChannelBook
from retally_node.leaving import Leavers, is_late, payable
from retally_node.ledger import CommittedRoot, Ledger
from retally_node.ports import Clock, Payers
from retally_node.records import ReceiptRecord

log = logging.getLogger(__name__)

MAX_ITEMS = 100
#: Channels asked for in one round trip.
MAX_ASKED = 100
#: A late receipt goes under a root for the sake of those behind it that bill at least so many times as much: proven,
#: it costs its fee and a tenth (R-54), and of what is collected for the others the audit share is taken.
LATE_FACTOR = 2


@dataclass(frozen=True, slots=True)
class MinedCommit:
    """A commit of this node and the block it stands in."""

    collected: Collected
    block: int


class CollectChain(Protocol):
    """What settlement needs of the chain."""

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        """Send the transaction and wait until it is mined."""

    async def commits(self, from_block: int) -> tuple[list[MinedCommit], int]:
        """This node's commits from a block on, and the block to go on from."""

    async def collected(self, channels: Sequence[ChannelId]) -> list[int]:
        """What each channel has paid."""


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What one transaction collects, and the receipts that its root holds."""

    items: tuple[CollectItem, ...]
    receipts: tuple[ReceiptRecord, ...]


@dataclass(frozen=True, slots=True)
class SettleOutcome:
    """What a settlement came to."""

    commits: tuple[int, ...]
    paid: int

    def to_wire(self) -> dict[str, Any]:
        """The answer to the admin's trigger."""
        return {"commits": [str(commit) for commit in self.commits], "paid": str(self.paid)}


def plan_collect(channels: Sequence[Channel], ledger: Ledger, now: int, tried: Container[bytes] = ()) -> CollectPlan:
    """The channels that can pay now, largest first, with every receipt that tiles what they can pay."""
    items, receipts = [], []
    for channel in sorted(channels, key=lambda channel: channel.collected - payable(channel)):
        if payable(channel) <= channel.collected or channel.best_signature is None or channel.id.key in tried:
            continue
        line = _in_time(channel, _tiling(channel, ledger), ledger, now)
        if not line:
            # The receipt is counted already and on its way to disk: it waits for the next time.
            continue
        channel_id = channel.id
        voucher = Voucher(channel_id.payer, channel_id.signer, channel_id.node, channel_id.lane, channel.best)
        items.append(CollectItem(voucher, line[-1].receipt.cum_to, channel.best_signature))
        receipts.extend(line)
        if len(items) == MAX_ITEMS:
            break
    return CollectPlan(tuple(items), tuple(receipts))


def _tiling(channel: Channel, ledger: Ledger) -> list[ReceiptRecord]:
    """The receipts from what is collected on, up to the first gap or overlap: under a root that is a fault (R-53)."""
    line: list[ReceiptRecord] = []
    end = channel.collected
    for record in ledger.jobs.billed_after(channel.id.key, channel.collected):
        receipt = record.receipt
        if receipt.cum_from >= payable(channel):
            break
        if receipt.cum_from > end or (line and receipt.cum_from < end):
            log.error(
                "channel %s: a receipt begins at %d where the line ends at %d; nothing from there on is collected",
                channel.id.key.hex(), receipt.cum_from, end,
            )  # fmt: skip
            break
        line.append(record)
        end = receipt.cum_to
    return line


def _in_time(channel: Channel, line: list[ReceiptRecord], ledger: Ledger, now: int) -> list[ReceiptRecord]:
    """The line up to the first receipt that R-54 calls late, or on to where those behind outweigh what it may cost."""
    worth = best = kept = late = 0
    for count, record in enumerate(line, 1):
        receipt = record.receipt
        fee = min(receipt.cum_to, payable(channel)) - max(receipt.cum_from, channel.collected)
        comes_late = is_late(receipt, ledger, now)
        late += comes_late
        worth += -LATE_FACTOR * fee if comes_late else fee
        if worth > best:
            best, kept = worth, count
    if late:
        log.warning(
            "channel %s: %d of %d receipts were paid for too late to be committed; %d are collected",
            channel.id.key.hex(), late, len(line), kept,
        )  # fmt: skip
    return line[:kept]


class Settlement:
    """Collects at an interval, before anybody can leave, or when told to."""

    def __init__(
        self,
        ledger: Ledger,
        book: ChannelBook,
        chain: CollectChain,
        payers: Payers,
        clock: Clock,
        domain: Domain,
        *,
        deployed_block: int,
        interval_seconds: int,
        expiry_seconds: int,
    ) -> None:
        self._ledger = ledger
        self._book = book
        self._chain = chain
        self._leavers = Leavers(ledger, payers, interval_seconds=interval_seconds, expiry_seconds=expiry_seconds)
        self._clock = clock
        self._domain = domain
        self._deployed_block = deployed_block
        self._interval_seconds = interval_seconds
        self._is_fresh = True
        #: Channels that commits touched since the chain was asked about them: those may have been taken back.
        self._doubtful: set[bytes] = set()
        self._lock = asyncio.Lock()

    async def step(self) -> None:
        """One round of the loop: keep up with the chain, settle when it is time."""
        async with self._lock:
            await self._reconcile()
        now = self._clock.now()
        last = self._ledger.commits.mark("settled_at", 0)
        if last == 0:
            await self._ledger.commits.set_mark("settled_at", now)
        elif now - last >= self._interval_seconds:
            await self.settle_now()
        elif await self._leavers.any(self._book.all(), now, last + self._interval_seconds):
            await self.settle_now()
            self._leavers.collected(now)

    async def settle_now(self) -> SettleOutcome:
        """Collect everything that can be collected now."""
        async with self._lock:
            asked = await self._refresh()
            known = {commit.record.id for commit in self._ledger.commits.commits()}
            # Each channel once a round: those whose funds or caps have run dry must not keep the others waiting.
            tried: set[bytes] = set()
            # None that the chain was not asked about: what it has paid for is where a line begins.
            while (plan := plan_collect(asked, self._ledger, self._clock.now(), tried)).items:
                await self._send(plan)
                asked = await self._refresh()
                tried |= {item.voucher.channel.key for item in plan.items}
            await self._ledger.commits.set_mark("settled_at", self._clock.now())
            made = [commit for commit in self._ledger.commits.commits() if commit.record.id not in known]
        return SettleOutcome(tuple(commit.record.id for commit in made), sum(commit.paid for commit in made))

    async def reconcile(self) -> None:
        """Learn from the chain what was collected, whoever sent it and whenever we died."""
        async with self._lock:
            await self._refresh()

    async def _send(self, plan: CollectPlan) -> None:
        leaves = sort_receipts(ReceiptLeaf(record.receipt, record.signature) for record in plan.receipts)
        root = receipts_root(leaves, self._domain)
        digests = [leaf.receipt.digest(self._domain) for leaf in leaves]
        await self._ledger.commits.prepare_root(root, digests, self._clock.now())
        crash_point("before:send:collect")
        await self._chain.collect(plan.items, root)
        crash_point("after:send:collect")

    async def reread(self) -> None:
        """The same from the first block on: a commit is asked for that is not on the books."""
        async with self._lock:
            await self._read_from(self._deployed_block, [])

    async def _refresh(self) -> list[Channel]:
        """Ask the chain what was collected of all channels of which that is not sure; return them."""
        recent = await self._reconcile()
        channels = [
            channel
            for channel in self._book.all()
            # What is on disk may be of before a reorganisation: after a start each that ever billed is asked for.
            if payable(channel) > (0 if self._is_fresh else channel.collected) or channel.id.key in self._doubtful
        ]
        for start in range(0, len(channels), MAX_ASKED):
            asked = channels[start : start + MAX_ASKED]
            amounts = await self._chain.collected([channel.id for channel in asked])
            for channel, amount in zip(asked, amounts, strict=True):
                # The chain's own word, also when a reorganisation took a commit back: leaves too many are harmless
                # under a root, one too few is a gap.
                channel.collected = amount
        self._is_fresh = False
        # What was touched by blocks that may still be replaced is asked for again.
        self._doubtful = recent
        return channels

    async def _reconcile(self) -> set[bytes]:
        """Read what is new and a little of what is not; return the channels that commits in those blocks touched."""
        start = self._ledger.commits.reread_from("commits", self._deployed_block)
        return await self._read_from(start, self._ledger.commits.commits_since(start))

    async def _read_from(self, start: int, known: Sequence[CommittedRoot]) -> set[bytes]:
        mined, next_block = await self._chain.commits(start)
        found = [_committed(commit) for commit in mined]
        gone = _gone(known, found)
        for commit in gone:
            log.warning("commit %d of block %d is no longer on the chain", commit.record.id, commit.block)
        if gone:
            await self._ledger.commits.forget_commits(gone)
        for commit in found:
            if commit not in known:
                await self._record(commit)
        if next_block > self._ledger.commits.mark("commits", start):
            await self._ledger.commits.set_mark("commits", next_block)
        touched = {key for commit in (*known, *found) for key in _channels_of(commit)}
        self._doubtful |= touched
        return touched

    async def _record(self, commit: CommittedRoot) -> None:
        touched = []
        for item in commit.ranges:
            channel = self._book.get(ChannelId(item.payer, item.signer, commit.record.node, item.lane))
            channel.collected = max(channel.collected, item.after)
            touched.append(channel)
        # The mark stays on this block, which may hold another commit of ours; writing one twice is harmless.
        await self._ledger.commits.record_commit(commit, touched, commit.block)


def _committed(mined: MinedCommit) -> CommittedRoot:
    collected = mined.collected
    return CommittedRoot(collected.commit, collected.ranges, collected.paid, mined.block)


def _channels_of(commit: CommittedRoot) -> set[bytes]:
    return {ChannelId(item.payer, item.signer, commit.record.node, item.lane).key for item in commit.ranges}


def _gone(known: Sequence[CommittedRoot], found: Sequence[CommittedRoot]) -> list[CommittedRoot]:
    """Those on the books that a reorganisation took back, as far as the chain's logs prove it.

    That one is missing proves nothing: an RPC may lag. That its root stands elsewhere does, or that logs of its block
    or of a later one were seen without it.
    """
    seen = {(commit.record.id, commit.record.receipts_root) for commit in found}
    roots = {commit.record.receipts_root for commit in found}
    last = max((commit.block for commit in found), default=-1)
    return [
        commit
        for commit in known
        if (commit.record.id, commit.record.receipts_root) not in seen
        and (commit.block <= last or commit.record.receipts_root in roots)
    ]
