"""Jobs that broke off or outlived their router: fetch their receipts from the node, then pay what they show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import structlog

from retally.errors import RetallyError
from retally.protocol.eip712 import Address, Domain
from retally_router.channel_state import Act, ChannelAccount
from retally_router.channels import Channels
from retally_router.check_frames import Placed, read_receipts
from retally_router.credit import Credit
from retally_router.directory import Listed
from retally_router.end_tasks import end_tasks
from retally_router.grouped_tasks import GroupedTasks
from retally_router.job_log import JobLog, JobRecord
from retally_router.keys import Session
from retally_router.lanes import Lanes
from retally_router.leases import is_lease
from retally_router.ports import Clock, NodeApi
from retally_router.store_errors import StoreError
from retally_router.vouchers import VoucherSender

log = structlog.get_logger(__name__)

Once = Callable[[ChannelAccount, Act], Awaitable[None]]

FIRST_DELAY_SECONDS = 0.2
LAST_DELAY_SECONDS = 15.0
# A node that does not know the job this long after it broke off never admitted it.
UNKNOWN_TRIES = 6
# Receipts committed later than this after the request's deadline lose their fee.
RECEIPT_LIFE_SECONDS = 7 * 86_400


class LaneLost(Exception):
    """Another process has the lane now, and settles what was left there."""


class SettleJobs:
    """Background tasks, one for each job whose receipts are missing."""

    def __init__(
        self,
        api: NodeApi,
        log_: JobLog,
        channels: Channels,
        credit: Credit,
        sender: VoucherSender,
        lanes: Lanes,
        clock: Clock,
        domain: Domain,
        *,
        find: Callable[[str], Listed | None],
        recover_seconds: float,
    ) -> None:
        self._api = api
        self._log = log_
        self._channels = channels
        self._credit = credit
        self._sender = sender
        self._lanes = lanes
        self._clock = clock
        self._domain = domain
        self._find = find
        self._recover_seconds = recover_seconds
        #: By job and node: own jobs, dead routers' jobs, and settled ones whose node has not got what it is owed yet.
        self._settling, self._taken_up, self._unpaid = GroupedTasks(), GroupedTasks(), GroupedTasks()
        self._ending_holds = GroupedTasks()
        self._recovering: dict[str, asyncio.Task[None]] = {}
        self._recovered_at: dict[str, float] = {}
        self._recovered: set[str] = set()

    def later(self, placed: Placed, account: ChannelAccount, record: JobRecord) -> None:
        """Sees to one job in the background."""
        self._settling.start(record.job_id, record.field, self._settle(placed, account, record))

    async def release(self, payer: Address, job: str, account: ChannelAccount | None) -> None:
        """Ends a job's hold once all of it is promised on record: until then it is owed, and promised nowhere."""
        if self._unsettled(job):
            self.release_later(payer, job, account)
        else:
            await self._release(payer, job, account)

    def release_later(self, payer: Address, job: str, account: ChannelAccount | None) -> None:
        """The same, once the job is settled everywhere and the store answers."""
        self._ending_holds.start(payer, job, self._release_once_settled(payer, job, account))

    async def _release_once_settled(self, payer: Address, job: str, account: ChannelAccount | None) -> None:
        while unsettled := self._unsettled(job):
            await asyncio.wait(unsettled)
        await _persist(lambda: self._release(payer, job, account))

    async def _release(self, payer: Address, job: str, account: ChannelAccount | None) -> None:
        release = partial(self._credit.release, payer, job)
        if account is None:
            await release()
        else:
            await self._sender.once_promised(account, release, bytes.fromhex(job))

    def _unsettled(self, job: str) -> list[asyncio.Task[None]]:
        # That a node has not got its voucher yet is no reason to hold anything.
        return self._settling.of(f"0x{job}") + self._taken_up.of(f"0x{job}")

    async def recover(self, session: Session) -> int:
        """Takes up what earlier processes left open for this signer: all at first, then what dead replicas left.

        Answers the lane of this process.
        """
        signer, now = session.signer, asyncio.get_running_loop().time()
        known = self._recovering.get(signer)
        if known is None or (known.done() and now > self._recovered_at[signer] + self._recover_seconds):
            self._recovered_at[signer] = now
            known = asyncio.create_task(self._recover(session))
            self._recovering[signer] = known
        await asyncio.shield(known)
        return await self._lanes.held()

    async def _recover(self, session: Session) -> None:
        first = session.signer not in self._recovered
        try:
            await self._take_over(session, first=first)
        except BaseException:
            # Nothing may run on our lane before its past is known: the next job tries again.
            self._recovering.pop(session.signer, None)
            raise
        self._recovered.add(session.signer)

    async def _take_over(self, session: Session, *, first: bool) -> None:
        own = await self._lanes.held()
        lanes = {record.lane for record in await self._log.open_jobs(session.payer, session.signer)}
        lanes |= {lane for _, lane in await self._credit.holds(session.payer, session.signer)}
        taken = {lane for lane in lanes if await self._lanes.adopt(lane)}
        # Not before: what a router began until it died, or lost its lane, is on record now.
        records = await self._log.open_jobs(session.payer, session.signer)
        for record in records:
            # What runs here, or did a moment ago, may be on a lane that was lost and taken again.
            if record.lane in taken and self._log.take_up(record):
                work = self._take_up(session, record.placed(self._domain), record)
                self._taken_up.start(record.job_id, record.field, work)
        opened = {record.job_id[2:] for record in records}
        for job, lane in await self._credit.holds(session.payer, session.signer):
            if self._credit.leases.owns(job):
                if not self._credit.leases.knows(job):
                    # It had ended: a store that came back without its last writes has it again.
                    await self._credit.release(session.payer, job)
                continue
            # Later than the first time, a hold on our own lane may be one that is just made; a lease there that is not
            # ours is of a life before: a store that lost writes has it again.
            is_past = lane in taken and (lane != own or first or is_lease(job))
            if job in opened or not is_past or self._credit.leases.part_of(job) is not None:
                continue
            # A lease covers all jobs of its process: until the last one is settled all of it counts.
            of_lane = {record.job_id for record in records if is_lease(job) and record.lane == lane}
            unsettled = [task for job_id in of_lane for task in self._taken_up.of(job_id)]
            if unsettled:
                self._ending_holds.start(session.payer, job, self._release_lease(unsettled, session.payer, job))
            else:
                await self._credit.release(session.payer, job)

    async def _release_lease(self, unsettled: list[asyncio.Task[None]], payer: Address, name: str) -> None:
        await asyncio.wait(unsettled)
        await _persist(lambda: self._credit.release(payer, name))

    async def close(self) -> None:
        """Stops; what is not settled stays on record."""
        grouped = (self._settling, self._taken_up, self._unpaid, self._ending_holds)
        await end_tasks([*(task for each in grouped for task in each), *self._recovering.values()])

    async def _take_up(self, session: Session, placed: Placed, record: JobRecord) -> None:
        try:
            account = await self._opened(session, placed, record)
            if account is None:
                await _persist(lambda: self._log.forget(record))
            else:
                await self._settle(placed, account, record)
        except LaneLost:
            self._log.leave(record)
            return
        except BaseException:
            # What nobody foresaw: the next job of its signer tries again.
            self._log.leave(record)
            raise
        # Of a job that was at two nodes, the last that is settled frees what it holds.
        if not self._is_taken_up_elsewhere(record):
            settled = [record.field, *self._unpaid.names(record.job_id)]
            await _persist(lambda: self._credit.release(session.payer, record.job_id[2:], settled=settled))

    async def _opened(self, session: Session, placed: Placed, record: JobRecord) -> ChannelAccount | None:
        """The job's channel; None if its node does not show it for as long as a receipt can be committed."""
        delay = FIRST_DELAY_SECONDS
        while self._clock.now() < placed.request.deadline + RECEIPT_LIFE_SECONDS:
            try:
                if not await self._lanes.adopt(record.lane):
                    raise LaneLost
                return await self._channels.open(session, self._located(placed), past=self._keys(record))
            except (RetallyError, StoreError) as error:
                log.info("channel_not_open", node=record.node, lane=record.lane, error=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_DELAY_SECONDS)
        return None

    def _is_taken_up_elsewhere(self, record: JobRecord) -> bool:
        others = self._taken_up.of(record.job_id)
        return any(task is not asyncio.current_task() and not task.done() for task in others)

    async def _settle(self, placed: Placed, account: ChannelAccount, record: JobRecord) -> None:
        delay, unknown = FIRST_DELAY_SECONDS, 0
        end = placed.request.deadline + RECEIPT_LIFE_SECONDS
        while self._clock.now() < end and unknown < UNKNOWN_TRIES:
            await asyncio.sleep(delay)
            delay = min(delay * 1.7, LAST_DELAY_SECONDS)
            try:
                if await self._fetch(placed, account, record):
                    self._unpaid.start(record.job_id, record.field, self._forget_once_paid(account, record, end))
                    # Until then the job's hold stands for what is owed: another router could promise it away.
                    job_id = bytes.fromhex(record.job_id[2:])
                    await self._until(partial(self._sender.once_promised, job_id=job_id), account, end)
                    return
            except (RetallyError, StoreError) as error:
                if isinstance(error, RetallyError) and error.status == 404:
                    # It answers: what slowed us down while it was away no longer counts.
                    delay = delay if unknown else FIRST_DELAY_SECONDS
                    unknown += 1
                log.info("job_unsettled", job=record.job_id, node=record.node, error=str(error))
        await self._end(account, record)

    async def _until(self, once: Once, account: ChannelAccount, end: int, act: Act | None = None) -> bool:
        """Waits for what `once` waits for, and has acted; no longer than a receipt can be committed."""
        done = asyncio.Event()

        async def acted() -> None:
            if act is not None:
                await act()
            done.set()

        # What need not wait is done at once, as soon as the store answers.
        await _persist(lambda: once(account, acted))
        while not done.is_set() and self._clock.now() < end:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), LAST_DELAY_SECONDS)
        return done.is_set()

    async def _forget_once_paid(self, account: ChannelAccount, record: JobRecord, end: int) -> None:
        once = partial(self._sender.once_paid, job_id=bytes.fromhex(record.job_id[2:]))
        if not await self._until(once, account, end, partial(self._log.forget, record)):
            await self._end(account, record)

    async def _fetch(self, placed: Placed, account: ChannelAccount, record: JobRecord) -> bool:
        """Closes what the node has receipts for; whether nothing of the job is open any more."""
        account.endpoint = self._located(placed, account.endpoint).node.endpoint
        shown = await self._api.receipts(account.endpoint, record.job_id)
        segments = {(choice, start): segment for choice, segment, start in record.segments}
        for leaf in sorted(read_receipts(shown, placed), key=lambda item: item.receipt.cum_from):
            receipt = leaf.receipt
            segment = segments.get((receipt.choice, receipt.output_from))
            if segment is not None:
                await self._channels.close_segment(account, leaf, segment, record.field)
        self._sender.pay(account)
        return not any(key in account.open for key in self._keys(record))

    def _located(self, placed: Placed, known: str | None = None) -> Placed:
        """The job with its node where it listens now; it may have moved since."""
        listed = self._find(placed.node.node)
        endpoint = listed.endpoint if listed is not None else known or placed.node.endpoint
        return replace(placed, node=replace(placed.node, endpoint=endpoint))

    async def _end(self, account: ChannelAccount, record: JobRecord) -> None:
        account.drop(self._keys(record))
        await _persist(lambda: self._log.forget(record))

    def _keys(self, record: JobRecord) -> list[tuple[bytes, int, int]]:
        job_id = bytes.fromhex(record.job_id[2:])
        return [(job_id, choice, segment) for choice, segment, _ in record.segments]


async def _persist(write: Callable[[], Awaitable[None]]) -> None:
    delay = FIRST_DELAY_SECONDS
    while True:
        try:
            return await write()
        except StoreError as error:
            log.info("redis_write_repeated", error=str(error), retry_seconds=delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, LAST_DELAY_SECONDS)
