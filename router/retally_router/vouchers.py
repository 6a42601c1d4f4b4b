"""Pays in the background: vouchers for what is due, batched per node, repeated until the node has them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import structlog

from retally.errors import RemoteError, RetallyError, Unavailable
from retally.protocol.encoding import to_hex
from retally_router.channel_state import Act, ChannelAccount, SignedVoucher
from retally_router.end_tasks import end_tasks
from retally_router.grouped_tasks import log_failure
from retally_router.ports import NodeApi
from retally_router.store_errors import StoreError

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS = 0.05
LAST_DELAY_SECONDS = 15.0
REFUSALS = 3


@dataclass(slots=True)
class _Queue:
    due: dict[bytes, ChannelAccount] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class VoucherSender:
    """One queue for each node; a newer total replaces an older one that has not left."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._queues: dict[str, _Queue] = {}
        #: Accounts that wait for money, a signer or the chain, and those that are asked again at once.
        self._aside: dict[bytes, asyncio.TimerHandle] = {}
        self._soon: dict[bytes, asyncio.TimerHandle] = {}

    def pay(self, account: ChannelAccount) -> None:
        """Has the account's wanted total delivered, if it is more than the node has."""
        if account.channel.key in self._aside or account.channel.key in self._soon:
            return
        if account.wanted <= account.delivered and not account.has_to_act:
            return
        queue = self._queues.setdefault(account.channel.node, _Queue())
        queue.due[account.channel.key] = account
        queue.wake.set()
        if queue.task is None or queue.task.done():
            queue.task = asyncio.create_task(self._run(account.channel.node, queue))
            queue.task.add_done_callback(log_failure)

    async def once_promised(self, account: ChannelAccount, act: Act) -> None:
        """Acts as soon as all that is owed to the node now is promised on record, whether it takes vouchers or not."""
        if account.promised >= account.wanted:
            await act()
        else:
            account.once_promised.append((account.wanted, act))

    async def once_paid(self, account: ChannelAccount, act: Act) -> None:
        """Acts as soon as the node has the voucher for all that is owed to it now."""
        if account.delivered >= account.wanted:
            await act()
        else:
            account.once_paid.append((account.wanted, act))

    async def drain(self, timeout_seconds: float) -> bool:
        """Waits until every node has its vouchers, or gives up; whether none was set aside."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_seconds
        while self._soon or any(queue.due for queue in self._queues.values()):
            if loop.time() > end:
                return False
            await asyncio.sleep(0.02)
        return not self._aside

    async def close(self) -> None:
        """Delivers what can be delivered quickly, then stops."""
        await self.drain(2.0)
        for handle in (*self._aside.values(), *self._soon.values()):
            handle.cancel()
        await end_tasks(queue.task for queue in self._queues.values() if queue.task is not None)

    async def _run(self, node: str, queue: _Queue) -> None:
        delay, refused = FIRST_DELAY_SECONDS, 0
        while queue.due:
            queue.wake.clear()
            batch = list(queue.due.values())
            try:
                await self._deliver(batch)
            except RemoteError as error:
                refused += 1
                log.warning("voucher_refused", node=node, code=error.code, error=error.message)
                if refused >= REFUSALS:
                    # Who came or is owed more meanwhile was not asked for its voucher yet.
                    for account in batch:
                        if account.promised >= account.wanted and not account.has_to_act:
                            queue.due.pop(account.channel.key, None)
                    refused = 0
                    continue
            except (RetallyError, StoreError) as error:
                log.info("voucher_undelivered", node=node, error=str(error), retry_seconds=delay)
            else:
                for account in batch:
                    if account.delivered >= account.wanted:
                        queue.due.pop(account.channel.key, None)
                delay, refused = FIRST_DELAY_SECONDS, 0
                continue
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY_SECONDS)

    async def _deliver(self, batch: list[ChannelAccount]) -> None:
        signed: list[dict[str, Any]] = []
        totals: list[int] = []
        covered: list[ChannelAccount] = []
        vouchers = await asyncio.gather(*(self._voucher(account) for account in batch))
        for account, made in zip(batch, vouchers, strict=True):
            if made is None:
                continue
            voucher, signature = made
            covered.append(account)
            signed.append({"voucher": voucher.to_wire(), "signature": to_hex(signature)})
            totals.append(voucher.cumulative)
        if not covered:
            return
        # Where the node is now: it may have moved since the job began.
        await self._api.send_vouchers(covered[-1].endpoint, signed)
        for account, total in zip(covered, totals, strict=True):
            account.delivered = max(account.delivered, total)
        for account in covered:
            await act_on(account.once_paid, account.delivered)

    async def _voucher(self, account: ChannelAccount) -> SignedVoucher | None:
        """None where this account's money, signer or chain is in the way; the store is all accounts'."""
        try:
            made = await account.voucher(max(account.wanted, account.promised))
        except RetallyError as error:
            if type(error) is Unavailable:
                # A job ended while its share was asked for: the next time it has none.
                self._set_aside(account, FIRST_DELAY_SECONDS, self._soon)
                return None
            channel = account.channel
            log.warning("voucher_uncovered", node=channel.node, payer=channel.payer, error=error.message)
            self._set_aside(account, LAST_DELAY_SECONDS, self._aside)
            return None
        await act_on(account.once_promised, account.promised)
        return made

    def _set_aside(self, account: ChannelAccount, seconds: float, waiting: dict[bytes, asyncio.TimerHandle]) -> None:
        """What can't be promised holds up no other payer's vouchers; it is asked for again later."""
        key = account.channel.key
        self._queues[account.channel.node].due.pop(key, None)

        def again() -> None:
            waiting.pop(key, None)
            self.pay(account)

        waiting[key] = asyncio.get_running_loop().call_later(seconds, again)


async def act_on(acts: deque[tuple[int, Act]], total: int) -> None:
    """Does what waited for that total; what fails is done again the next time. Two may be at it at once."""
    while acts and acts[0][0] <= total:
        waiting = acts.popleft()
        try:
            await waiting[1]()
        except BaseException:
            acts.appendleft(waiting)
            raise
