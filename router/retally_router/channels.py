"""The channels that this process writes to, opened from Redis and from what their nodes show."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

from retally.errors import InvalidReceipt, InvalidSignature, NodeUnavailable, Unavailable
from retally.protocol.eip712 import Domain, check_signed_by
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import ChannelState
from retally_router.channel_state import ChannelAccount, ReceiptBatch
from retally_router.check_frames import Placed
from retally_router.credit import Credit
from retally_router.earmarks import Count
from retally_router.grouped_tasks import look_at
from retally_router.job_log import JobLog, JobRecord, place_of
from retally_router.keys import Session
from retally_router.open_segments import OpenSegment, SegmentKey
from retally_router.patience import Patience
from retally_router.ports import NodeApi
from retally_router.refusals import OWN
from retally_router.store_errors import StoreError

KEPT_CHANNELS = 20_000

AtStore = Callable[[], AbstractContextManager[None]]


class Channels:
    """Accounts by channel; each is opened once per process."""

    def __init__(self, api: NodeApi, log: JobLog, credit: Credit, domain: Domain) -> None:
        self._api = api
        self._log = log
        self._credit = credit
        self._domain = domain
        self._accounts: dict[bytes, ChannelAccount] = {}
        self._lapses = 0
        self._opening: dict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def open(
        self, session: Session, placed: Placed, at_store: AtStore = nullcontext, *, past: Collection[SegmentKey] = ()
    ) -> ChannelAccount:
        """The account of the job's channel; raises NodeUnavailable when the node's books can't be reconciled.

        The segments of a job that another process began are in none that was read before: it raises Unavailable while
        own jobs are in that.

        While it is idle it may be forgotten: who waits for anything before it is in use has to open it once more. While
        the store is asked, `at_store` is entered.
        """
        channel = ChannelId(session.payer, session.signer, placed.node.node, placed.lane)
        async with self._opening[channel.key]:
            account = self._accounts.get(channel.key)
            # A gap that no open job explains is of a receipt that another has, or that never comes.
            if account is not None and (account.is_shared or account.tiling.beyond):
                if account.is_idle:
                    account = None
                elif account.is_shared and past and not any(key in account.open for key in past):
                    raise Unavailable("jobs of before are in the channel", hint="retry in seconds")
            if account is None:
                self._accounts.pop(channel.key, None)
                loaded = await self._load_anew(session, channel, placed.node.endpoint, at_store)
                self._make_room()
                # Who stood at the lock as a lapse came may have loaded it beside who came after.
                account = self._accounts.setdefault(channel.key, loaded)
            account.endpoint = placed.node.endpoint
        self._opening.pop(channel.key, None)
        return account

    async def cover(self, placed: Placed, most: int, *, is_begun: bool, is_spare: bool) -> None:
        """Sees that the job holds the most that a node may bill, whatever was promised to others; raises if it can't.

        One whose answer has begun goes on with what it holds: it may well end before that is spent. Neither it nor a
        spare node has others wait.
        """
        job, is_patient = placed.job_id.hex(), not is_begun and not is_spare
        try:
            await self._credit.cover(job, most, Patience.ALL if is_patient else Patience.NONE)
        except OWN:
            if not is_begun:
                raise

    def accounts(self) -> list[ChannelAccount]:
        """Every open account."""
        return list(self._accounts.values())

    def drop_idle(self) -> None:
        """Forgets what is not in use, say for room."""
        self._accounts = {key: account for key, account in self._accounts.items() if not account.is_idle}

    def lapse(self, lane: int | None = None) -> None:
        """Another process may have written channels: they are read anew, those in use as soon as they are not."""
        self._lapses += 1
        for account in self._accounts.values():
            if lane is None or account.channel.lane == lane:
                account.is_shared = True

    async def close_segment(self, account: ChannelAccount, leaf: ReceiptLeaf, segment: int, place: str) -> None:
        """Moves the money line by a checked receipt and puts it on record, with the others that wait for that.

        The place is the job's on record at its node.
        """
        receipt = leaf.receipt
        key = (receipt.job_id, receipt.choice, segment)
        known = account.open.get(key)
        try:
            account.close(key, receipt)
        except InvalidReceipt:
            # The lane may have lapsed, and whoever had it meanwhile bills on the channel too.
            account.close(key, receipt, await self._beside(account))
        batch = account.batch
        if batch is None:
            batch = account.batch = ReceiptBatch(asyncio.create_task(self._record(account)))
            batch.work.add_done_callback(look_at)
        batch.leaves.append((leaf, place))
        if known is not None:
            batch.segments[key] = known
        # A client that leaves ends its waiting; the others' receipts are in the same write.
        await asyncio.shield(batch.work)

    async def _beside(self, account: ChannelAccount) -> int:
        """What jobs may cost that other processes have in a channel; what they closed is counted from here on."""
        others = await self._past(account)
        _, recorded = await self._log.totals(account.channel)
        account.take_in(recorded)
        segments = [segments_of(record.placed(self._domain), record.segments) for record in others]
        return sum(segment.limit for each in segments for key, segment in each.items() if key not in account.open)

    async def is_on_record(self, account: ChannelAccount, job: JobRecord) -> bool:
        """Whether the receipts of a job whose segments were closed are on record, once no write is under way."""
        if account.batch is not None:
            await asyncio.wait([account.batch.work])
        async with account.lock:
            job_id = bytes.fromhex(job.job_id[2:])
            return not any((job_id, choice, segment) in account.open for choice, segment, _ in job.segments)

    async def _record(self, account: ChannelAccount) -> None:
        # One write at a time: the money line on record must never go back.
        async with account.lock:
            batch, account.batch = account.batch, None
            assert batch is not None
            try:
                recorded = await self._log.add_receipts(batch.leaves, account.channel, account.tiling.closed)
            except StoreError:
                # Counted here but not on record: the segments stay open until they are.
                account.reopen(batch.segments)
                raise
            account.take_in(recorded)
            account.note_recorded(place for _, place in batch.leaves)

    async def last_voucher(self, session: Session, placed: Placed) -> tuple[Voucher, bytes]:
        """A voucher over what the job's channel has promised already, whoever writes to it."""
        channel = ChannelId(session.payer, session.signer, placed.node.node, placed.lane)
        promised, _ = await self._log.totals(channel)
        voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, promised)
        return voucher, session.signing_key.sign(voucher.digest(self._domain))

    async def _load_anew(
        self, session: Session, channel: ChannelId, endpoint: str, at_store: AtStore
    ) -> ChannelAccount:
        while True:
            lapses, account = self._lapses, await self._load(session, channel, endpoint, at_store)
            # What was read before a lapse is of before.
            if lapses == self._lapses:
                return account

    async def _load(self, session: Session, channel: ChannelId, endpoint: str, at_store: AtStore) -> ChannelAccount:
        credit = self._credit
        account = ChannelAccount(channel, session.signing_key, self._domain, endpoint, credit.promise)
        with at_store():
            account.promised, account.tiling = await self._log.totals(channel)
        shown = await self._api.channel(endpoint, channel.payer, channel.signer, channel.lane)
        state = ChannelState.from_wire(shown)
        self._check_best(channel, state)
        account.delivered = state.best
        with at_store():
            if state.best > account.promised:
                account.promised = (await self._credit.promise(channel, count=Count(state.best))).total
            past = await self._reopen(account)
        self._check_closed(account, state)
        for record in past:
            self._log.note_opened(record)
        return account

    def _check_best(self, channel: ChannelId, state: ChannelState) -> None:
        if state.best == 0:
            return
        voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, state.best)
        try:
            check_signed_by(voucher.digest(self._domain), state.best_signature or b"", channel.signer)
        except InvalidSignature as error:
            raise NodeUnavailable(f"{channel.node} shows a voucher that was never signed") from error

    async def _reopen(self, account: ChannelAccount) -> list[JobRecord]:
        """Segments of an earlier life of this lane may still cost money; answers whose they are."""
        past = await self._past(account)
        known = await self._log.promised_for(account.channel.payer, past)
        for record in past:
            promised = {record.field: known[record.field]} if record.field in known else {}
            account.reopen(segments_of(record.placed(self._domain), record.segments), promised)
        return past

    async def _past(self, account: ChannelAccount) -> list[JobRecord]:
        channel = account.channel
        records = await self._log.past_jobs(channel.payer, channel.signer)
        return [record for record in records if (record.node, record.lane) == (channel.node, channel.lane)]

    def _check_closed(self, account: ChannelAccount, state: ChannelState) -> None:
        if state.last_cum_to <= account.promised:
            # Money that our own signature promised: the node may have it, whatever Redis forgot.
            if not account.open:
                account.tiling.close_to(state.last_cum_to)
            return
        if state.last_cum_to > account.limit:
            message = f"{account.channel.node} counts {state.last_cum_to} on a channel that promised {account.promised}"
            raise NodeUnavailable(message)

    def _make_room(self) -> None:
        if len(self._accounts) >= KEPT_CHANNELS:
            self.drop_idle()


def segments_of(placed: Placed, segments: Sequence[tuple[int, int, int]]) -> dict[SegmentKey, OpenSegment]:
    """A job's segments as its channel counts them while they are open."""
    price_out, most = placed.node.offer.price_out, placed.request.max_output
    place = place_of(to_hex(placed.job_id), placed.node.node, segments)
    return {
        (placed.job_id, choice, segment): OpenSegment(input_cost(placed, choice, start), price_out, most - start, place)
        for choice, segment, start in segments
    }


def input_cost(placed: Placed, choice: int, output_from: int) -> int:
    """A segment's largest input cost by R-19, before rounding."""
    offer = placed.node.offer
    if output_from:
        return (placed.prompt_tokens_at_most + output_from) * offer.price_cached
    return placed.prompt_tokens_at_most * offer.price_in if choice == 0 else 0
