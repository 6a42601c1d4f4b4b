"""Pays in the background: vouchers for what is due, batched per node, repeated until the node has them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from retally.errors import RemoteError, RetallyError, Unavailable
from retally.protocol.encoding import to_hex
from retally.protocol.voucher import MAX_VOUCHERS
from retally_router.channel_state import Act, ChannelAccount, SignedVoucher
from retally_router.end_tasks import end_tasks
from retally_router.grouped_tasks import log_failure
from retally_router.ports import NodeApi
from retally_router.store_errors import StoreError

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS = 0.05
LAST_DELAY_SECONDS = 15.0
LATER_SECONDS = 0.4
REFUSALS = 3
#: Vouchers are made sooner; those that are not hold up no other.
READY_SECONDS = 0.25


@dataclass(slots=True)
class _Queue:
    due: dict[bytes, ChannelAccount] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    #: How often in a row an account's voucher was refused.
    refused: dict[bytes, int] = field(default_factory=dict)


class VoucherSender:
    """One queue for each node; a newer total replaces an older one that has not left."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._queues: dict[str, _Queue] = {}
        #: Accounts that wait for money, a signer or the chain, and those that are asked again at once.
        self._aside: dict[bytes, asyncio.TimerHandle] = {}
        self._soon: dict[bytes, asyncio.TimerHandle] = {}
        self._waiting: dict[bytes, ChannelAccount] = {}
        #: Vouchers that take long to make.
        self._late: dict[bytes, asyncio.Task[SignedVoucher | None]] = {}

    def pay(self, account: ChannelAccount) -> None:
        """Has the account's wanted total delivered, if it is more than the node has."""
        key = account.channel.key
        if any(key in waiting for waiting in (self._aside, self._soon, self._late)):
            # It may be another than waits: the channel may have been forgotten, and read anew.
            self._waiting[key] = account
            return
        if not account.has_to_pay:
            return
        queue = self._queues.setdefault(account.channel.node, _Queue())
        queue.due[key] = account
        if queue.task is None or queue.task.done():
            queue.task = asyncio.create_task(self._run(account.channel.node, queue))
            queue.task.add_done_callback(log_failure)

    async def once_promised(self, account: ChannelAccount, act: Act, job_id: bytes) -> None:
        """Acts as soon as all that a job owes the node is promised on record, for it alone.

        That is promised at once, also where the channel's total covers it by what others prepaid, and whether the node
        takes vouchers or not.
        """
        if not account.has_promised(job_id):
            try:
                await account.put_on_record(account.wanted, job_id)
            except (RetallyError, StoreError) as error:
                log.info("job_unpromised", node=account.channel.node, job=job_id.hex(), error=str(error))
        if account.has_promised(job_id):
            await act()
        else:
            account.once_promised.append((job_id, act))
            self.pay(account)

    async def once_paid(self, account: ChannelAccount, act: Act, job_id: bytes) -> None:
        """Acts as soon as a job owes nothing, and the node has the voucher for all that is owed to it then."""
        await self.once_promised(account, partial(self._once_delivered, account, act), job_id)

    async def _once_delivered(self, account: ChannelAccount, act: Act) -> None:
        if account.delivered >= account.wanted:
            await act()
        else:
            account.once_paid.append((account.wanted, act))

    async def drain(self, timeout_seconds: float) -> bool:
        """Waits until every node has its vouchers, or gives up; whether none was set aside."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_seconds
        while self._soon or self._late or any(queue.due for queue in self._queues.values()):
            if loop.time() > end:
                return False
            await asyncio.sleep(0.02)
        return not self._aside

    async def close(self) -> None:
        """Delivers what can be delivered quickly, then stops."""
        await self.drain(2.0)
        for handle in (*self._aside.values(), *self._soon.values()):
            handle.cancel()
        working = [queue.task for queue in self._queues.values() if queue.task is not None]
        await end_tasks([*working, *self._late.values()])

    async def _run(self, node: str, queue: _Queue) -> None:
        delay = FIRST_DELAY_SECONDS
        while queue.due:
            batch = list(queue.due.values())[:MAX_VOUCHERS]
            for account in batch:
                # Those that are left over come first the next time.
                queue.due[account.channel.key] = queue.due.pop(account.channel.key)
            try:
                refused = await self._deliver(batch)
            except (RetallyError, StoreError) as error:
                log.info("voucher_undelivered", node=node, error=str(error), retry_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_DELAY_SECONDS)
            else:
                self._note(queue, batch, refused)
                delay = FIRST_DELAY_SECONDS

    def _note(self, queue: _Queue, batch: Sequence[ChannelAccount], refused: Collection[bytes]) -> None:
        """Who has nothing more to come is due no more; who was refused waits, and after some times for long."""
        for account in batch:
            key = account.channel.key
            if key not in refused:
                queue.refused.pop(key, None)
                if not account.has_to_pay and queue.due.get(key) is account:
                    del queue.due[key]
                continue
            queue.refused[key] = times = queue.refused.get(key, 0) + 1
            if times < REFUSALS:
                self._set_aside(account, FIRST_DELAY_SECONDS * 2**times, self._soon)
            else:
                self._set_aside(account, LAST_DELAY_SECONDS, self._aside)

    async def _deliver(self, batch: Sequence[ChannelAccount]) -> set[bytes]:
        """The accounts whose vouchers the node refused; raises where it has none of them."""
        made = await self._made(batch)
        try:
            await self._send(made)
        except RemoteError as error:
            if not is_refusal(error):
                raise
            log.warning("voucher_refused", node=batch[0].channel.node, code=error.code, error=error.message)
            if len(made) == 1:
                return {made[0][0].channel.key}
            # One that it does not take keeps it from reading those behind: each by itself.
            return {account.channel.key for account, voucher in made if not await self._is_taken(account, voucher)}
        return set()

    async def _made(self, batch: Sequence[ChannelAccount]) -> list[tuple[ChannelAccount, SignedVoucher]]:
        """The vouchers that are there in a moment: of a payer with nothing left all signers are looked up first."""
        works = [(account, asyncio.create_task(self._voucher(account))) for account in batch]
        try:
            await asyncio.wait([work for _, work in works], timeout=READY_SECONDS)
        except BaseException:
            for _, work in works:
                work.cancel()
            raise
        over = [(account, work) for account, work in works if work.done()]
        late = [(account, work) for account, work in works if not work.done()]
        for account, work in late:
            self._leave(account, work)
        errors = [error for _, work in over if (error := work.exception()) is not None]
        if errors:
            raise errors[0]
        made = [(account, voucher) for account, work in over if (voucher := work.result()) is not None]
        # Where more becomes due faster than it is promised, what was promised before goes ahead.
        known = [(account, account.signed) for account, _ in late]
        return made + [(account, each) for account, each in known if each and each[0].cumulative > account.delivered]

    def _leave(self, account: ChannelAccount, work: asyncio.Task[SignedVoucher | None]) -> None:
        """Nobody waits for it: it is due again once its voucher is made."""
        key = account.channel.key
        self._queues[account.channel.node].due.pop(key, None)
        self._late[key] = work

        def is_over(_: object) -> None:
            self._late.pop(key, None)
            if not work.cancelled():
                # Of an error it hears again, when it is asked again.
                work.exception()
                self.pay(self._waiting.pop(key, account))

        work.add_done_callback(is_over)

    async def _is_taken(self, account: ChannelAccount, voucher: SignedVoucher) -> bool:
        try:
            await self._send([(account, voucher)])
        except RemoteError as error:
            if not is_refusal(error):
                raise
            return False
        return True

    async def _send(self, made: Sequence[tuple[ChannelAccount, SignedVoucher]]) -> None:
        if not made:
            return
        signed = [{"voucher": each.to_wire(), "signature": to_hex(signature)} for _, (each, signature) in made]
        # Where the node is now: it may have moved since the job began.
        await self._api.send_vouchers(made[-1][0].endpoint, signed)
        for account, (voucher, _) in made:
            account.delivered = max(account.delivered, voucher.cumulative)
        for account, _ in made:
            await act_on(account.once_paid, account.paid)

    async def _voucher(self, account: ChannelAccount) -> SignedVoucher | None:
        """None where nothing new is promised: money, signer or chain are in the way. The store is all accounts'."""
        total, error = max(account.wanted, account.promised), None
        try:
            await account.put_on_record(total)
        except RetallyError as failure:
            error = failure
        await act_on(account.now_promised, account.promised)
        if account.promised > account.delivered or (error is None and account.promised >= total):
            # What others owe is delivered first, whatever is in one job's way.
            return account.signed_over(account.promised)
        await act_on(account.once_paid, account.paid)
        if error is None:
            # What is due is another router's to promise, or its job is.
            self._set_aside(account, LATER_SECONDS, self._soon)
        elif type(error) is Unavailable:
            # A job ended while its share was asked for: the next time it has none.
            self._set_aside(account, FIRST_DELAY_SECONDS, self._soon)
        else:
            channel = account.channel
            log.warning("voucher_uncovered", node=channel.node, payer=channel.payer, error=error.message)
            self._set_aside(account, LAST_DELAY_SECONDS, self._aside)
        return None

    def _set_aside(self, account: ChannelAccount, seconds: float, waiting: dict[bytes, asyncio.TimerHandle]) -> None:
        """What can't be promised holds up no other payer's vouchers; it is asked for again later."""
        key = account.channel.key
        self._queues[account.channel.node].due.pop(key, None)
        if key in waiting:
            waiting[key].cancel()

        def again() -> None:
            waiting.pop(key, None)
            self.pay(self._waiting.pop(key, account))

        waiting[key] = asyncio.get_running_loop().call_later(seconds, again)


def is_refusal(error: RemoteError) -> bool:
    """Whether the node said no to what it was sent, and not that it can't take anything now."""
    return 400 <= error.status < 500 and error.status not in (408, 429)


async def act_on(acts: deque[tuple[int, Act]], total: int) -> None:
    """Does what waited for that total; what fails is done again the next time. Two may be at it at once."""
    while acts and acts[0][0] <= total:
        waiting = acts.popleft()
        try:
            await waiting[1]()
        except BaseException:
            acts.appendleft(waiting)
            raise
