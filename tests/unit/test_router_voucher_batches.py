"""A node's vouchers in batches: no more than it takes at once, and none that waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from tests.fakes_world import DOMAIN
from tests.holds_world import JOB, KEY, Plenty, TakingNode, owe
from tests.lease_world import line

from retally.errors import InsufficientFunds, RemoteError
from retally.protocol.voucher import MAX_VOUCHERS, ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.earmarks import Ask, Count, Promised
from retally_router.ports import NodeApi
from retally_router.vouchers import VoucherSender


def owing(lane: int, amount: int, promise: Callable[..., Any] | None = None) -> ChannelAccount:
    """A channel whose node is owed so much, and what promises it, where there is enough."""
    account = ChannelAccount(line(lane), KEY, DOMAIN, "http://node", promise or Plenty().promise)
    owe(account, JOB, amount)
    return account


class Strict(TakingNode):
    """Takes no more at once than nodes do, and not what it does not know; it stops at the first of those."""

    def __init__(self, *unknown: int) -> None:
        super().__init__()
        self.unknown, self.requests = unknown, 0

    async def send_vouchers(self, endpoint: str, signed: list[dict[str, Any]]) -> None:
        self.requests += 1
        if len(signed) > MAX_VOUCHERS:
            raise RemoteError(400, "bad_request", "too many")
        for each in signed:
            if each["voucher"]["lane"] in self.unknown:
                raise RemoteError(404, "not_found", "no such channel")
            await super().send_vouchers(endpoint, [each])


async def test_a_voucher_that_takes_long_to_make_holds_up_no_other() -> None:
    node, gate, plenty = TakingNode(), asyncio.Event(), Plenty()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        await gate.wait()
        return await plenty.promise(channel, asks, count)

    late = owing(0, 10, slow)
    fine = owing(1, 7)
    sender.pay(late)
    sender.pay(fine)
    await asyncio.wait_for(node.is_paid.wait(), 1)
    # It is paid as often as its node sends a chunk, which holds up nobody either.
    for job in ("0b", "0c"):
        node.is_paid.clear()
        owe(fine, job, 1)
        sender.pay(late)
        sender.pay(fine)
        await asyncio.wait_for(node.is_paid.wait(), 0.2)
    assert node.taken == ["7", "8", "9"]
    assert not await sender.drain(0.1)
    gate.set()
    assert await sender.drain(5.0)
    assert (node.taken[-1], late.delivered) == ("10", 10)
    await sender.close()


@pytest.mark.parametrize("unknown", [(), (3,)])
async def test_more_channels_than_a_node_takes_at_once_are_all_paid(
    monkeypatch: pytest.MonkeyPatch, unknown: tuple[int, ...]
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("retally_router.vouchers.LAST_DELAY_SECONDS", 0.5)
    node, acted = Strict(*unknown), list[int]()
    sender = VoucherSender(cast(NodeApi, node))

    for lane in range(2 * MAX_VOUCHERS + 1):
        account = owing(lane, 1 + lane)

        async def act(lane: int = lane) -> None:
            acted.append(lane)

        sender.pay(account)
        await sender.once_paid(account, act, bytes.fromhex(JOB))
    assert await sender.drain(20) is not bool(unknown)
    paid = [lane for lane in range(2 * MAX_VOUCHERS + 1) if lane not in unknown]
    assert sorted(acted) == paid
    assert sorted({int(total) for total in node.taken}) == [1 + lane for lane in paid]
    # It is not given up: the node may know it later.
    node.unknown = ()
    await asyncio.sleep(0.7)
    assert sorted(acted) == list(range(2 * MAX_VOUCHERS + 1))
    await sender.close()


async def test_a_node_that_can_take_nothing_now_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.001)
    answers = iter([503, 429, 500, 503, 200])

    class Starting(TakingNode):
        async def send_vouchers(self, endpoint: str, signed: list[dict[str, Any]]) -> None:
            if (status := next(answers)) != 200:
                raise RemoteError(status, "busy", "not now")
            await super().send_vouchers(endpoint, signed)

    node = Starting()
    sender = VoucherSender(cast(NodeApi, node))

    sender.pay(owing(0, 5))
    assert await sender.drain(5)
    assert node.taken == ["5"]
    await sender.close()


async def test_a_pause_is_its_channels_and_not_an_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.LAST_DELAY_SECONDS", 0.2)
    node, acted = TakingNode(), list[str]()
    sender = VoucherSender(cast(NodeApi, node))

    async def short(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        raise InsufficientFunds(10, 0)

    async def act() -> None:
        acted.append("paid")

    old = owing(0, 10, short)
    sender.pay(old)
    await asyncio.sleep(0.05)
    # Its money came by another way; it was forgotten while it was idle, and read anew.
    old.promised = old.delivered = 10
    old.owing.clear()
    new = ChannelAccount(line(0), KEY, DOMAIN, "http://node", Plenty().promise)
    new.promised = new.delivered = new.tiling.closed = 10
    owe(new, JOB, 30)
    sender.pay(new)
    await sender.once_paid(new, act, bytes.fromhex(JOB))
    await asyncio.sleep(0.4)
    assert (node.taken, acted, new.delivered) == (["40"], ["paid"], 40)
    await sender.close()


async def test_what_was_promised_before_goes_ahead_of_what_becomes_due_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.READY_SECONDS", 0.02)
    node, plenty = TakingNode(), Plenty()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        await asyncio.sleep(0.05)
        return await plenty.promise(channel, asks, count)

    account = ChannelAccount(line(0), KEY, DOMAIN, "http://node", slow)
    for number in range(99):
        owe(account, f"{number:02x}", 1)
        sender.pay(account)
        await asyncio.sleep(0.01)
    assert len(node.taken) > 5
    assert await sender.drain(5.0)
    assert node.taken[-1] == "99"
    await sender.close()


async def test_a_sender_that_closes_leaves_no_voucher_in_the_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.READY_SECONDS", 60.0)
    node, gate, plenty = TakingNode(), asyncio.Event(), Plenty()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        await gate.wait()
        return await plenty.promise(channel, asks, count)

    before = asyncio.all_tasks()
    account = owing(0, 5, slow)
    sender.pay(account)
    await sender.close()
    # What was asked for is heard; nobody waits for it.
    assert asyncio.all_tasks() - before == {account.recording}
    gate.set()
    await asyncio.sleep(0.01)
    assert (asyncio.all_tasks() - before, node.taken) == (set(), [])
