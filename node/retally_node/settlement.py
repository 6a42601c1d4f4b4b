"""Turn vouchers into money: one root over the receipts, one `collect` for all channels."""

from __future__ import annotations

import asyncio
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
from retally_node.ledger import CommittedRoot, Ledger
from retally_node.ports import Clock, Payers
from retally_node.records import ReceiptRecord

MAX_ITEMS = 100
WATCH_SECONDS = 30


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


def plan_collect(channels: Sequence[Channel], ledger: Ledger, tried: Container[bytes] = ()) -> CollectPlan:
    """The channels that can pay now, largest first, with every receipt that tiles what they can pay."""
    items, receipts = [], []
    for channel in sorted(channels, key=lambda channel: channel.collected - _payable(channel)):
        payable = _payable(channel)
        if payable <= channel.collected or channel.best_signature is None or channel.id.key in tried:
            continue
        line = [r for r in ledger.jobs.billed_after(channel.id.key, channel.collected) if r.receipt.cum_from < payable]
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


def _payable(channel: Channel) -> int:
    return min(channel.best, channel.last_cum)


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
        self._payers = payers
        self._clock = clock
        self._domain = domain
        self._deployed_block = deployed_block
        self._interval_seconds = interval_seconds
        self._expiry_seconds = expiry_seconds
        self._watched_at = 0
        self._lock = asyncio.Lock()

    async def step(self) -> None:
        """One round of the loop: keep up with the chain, settle when it is time."""
        async with self._lock:
            await self._reconcile()
        now = self._clock.now()
        last = self._ledger.commits.mark("settled_at", 0)
        if last == 0:
            await self._ledger.commits.set_mark("settled_at", now)
        elif now - last >= self._interval_seconds or await self._somebody_leaves(now):
            await self.settle_now()

    async def settle_now(self) -> SettleOutcome:
        """Collect everything that can be collected now."""
        async with self._lock:
            await self._refresh()
            known = {commit.record.id for commit in self._ledger.commits.commits()}
            # Each channel once a round: those whose funds or caps have run dry must not keep the others waiting.
            tried: set[bytes] = set()
            while (plan := plan_collect(self._book.all(), self._ledger, tried)).items:
                await self._send(plan)
                await self._refresh()
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

    async def _refresh(self) -> None:
        await self._reconcile()
        channels = self._book.all()
        for channel, amount in zip(
            channels, await self._chain.collected([channel.id for channel in channels]), strict=True
        ):
            # The chain's own word, also when a reorganisation took a commit back: leaves too many are harmless under a
            # root, one too few is a gap.
            channel.collected = amount

    async def _reconcile(self) -> None:
        start = self._ledger.commits.mark("commits", self._deployed_block)
        mined, next_block = await self._chain.commits(start)
        for commit in mined:
            await self._record(commit)
        if next_block > start:
            await self._ledger.commits.set_mark("commits", next_block)

    async def _record(self, mined: MinedCommit) -> None:
        collected = mined.collected
        touched = []
        for item in collected.ranges:
            channel = self._book.get(ChannelId(item.payer, item.signer, collected.commit.node, item.lane))
            channel.collected = max(channel.collected, item.after)
            touched.append(channel)
        commit = CommittedRoot(collected.commit, collected.ranges, collected.paid, mined.block)
        # The mark stays on this block, which may hold another commit of ours; writing one twice is harmless.
        await self._ledger.commits.record_commit(commit, touched, mined.block)

    async def _somebody_leaves(self, now: int) -> bool:
        """Whether a payer that owes us thaws, or its signer runs out, before the next settlement."""
        if now - self._watched_at < WATCH_SECONDS:
            return False
        self._watched_at = now
        for channel in self._book.all():
            if min(channel.best, channel.last_cum) <= channel.collected:
                continue
            standing = await self._payers.standing(channel.id.payer, channel.id.signer)
            expires = standing.expiry is not None and standing.expiry - now < self._expiry_seconds
            if standing.thawing > 0 or expires:
                return True
        return False
