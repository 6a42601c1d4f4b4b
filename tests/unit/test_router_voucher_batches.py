"""A node's vouchers in batches: no more than it takes at once, and none that waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from tests.fakes_world import DOMAIN
from tests.holds_world import KEY, TakingNode
from tests.lease_world import line

from retally.errors import InsufficientFunds, RemoteError
from retally.protocol.voucher import MAX_VOUCHERS, ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.ports import NodeApi
from retally_router.tiling import Tiling
from retally_router.vouchers import VoucherSender


async def promise(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
    """There is enough."""
    return total


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
    node, gate = TakingNode(), asyncio.Event()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        await gate.wait()
        return total

    late = ChannelAccount(line(0), KEY, DOMAIN, "http://node", slow, tiling=Tiling(10), claimed=10)
    fine = ChannelAccount(line(1), KEY, DOMAIN, "http://node", promise, tiling=Tiling(7), claimed=7)
    sender.pay(late)
    sender.pay(fine)
    await asyncio.wait_for(node.is_paid.wait(), 1)
    # It is paid as often as its node sends a chunk, which holds up nobody either.
    for total in (8, 9):
        node.is_paid.clear()
        fine.tiling.closed = fine.claimed = total
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
        account = ChannelAccount(
            line(lane), KEY, DOMAIN, "http://node", promise, tiling=Tiling(1 + lane), claimed=1 + lane
        )

        async def act(lane: int = lane) -> None:
            acted.append(lane)

        sender.pay(account)
        await sender.once_paid(account, act)
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

    sender.pay(ChannelAccount(line(0), KEY, DOMAIN, "http://node", promise, tiling=Tiling(5), claimed=5))
    assert await sender.drain(5)
    assert node.taken == ["5"]
    await sender.close()


async def test_a_pause_is_its_channels_and_not_an_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.LAST_DELAY_SECONDS", 0.2)
    node, acted = TakingNode(), list[str]()
    sender = VoucherSender(cast(NodeApi, node))

    async def short(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        raise InsufficientFunds(total, 0)

    async def act() -> None:
        acted.append("paid")

    old = ChannelAccount(line(0), KEY, DOMAIN, "http://node", short, tiling=Tiling(10), claimed=10)
    sender.pay(old)
    await asyncio.sleep(0.05)
    # Its money came by another way; it was forgotten while it was idle, and read anew.
    old.promised = old.delivered = 10
    new = ChannelAccount(line(0), KEY, DOMAIN, "http://node", promise, tiling=Tiling(40), claimed=40)
    new.promised = new.delivered = 10
    sender.pay(new)
    await sender.once_paid(new, act)
    await asyncio.sleep(0.4)
    assert (node.taken, acted, new.delivered) == (["40"], ["paid"], 40)
    await sender.close()


async def test_what_was_promised_before_goes_ahead_of_what_becomes_due_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.READY_SECONDS", 0.02)
    node = TakingNode()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        await asyncio.sleep(0.05)
        return total

    account = ChannelAccount(line(0), KEY, DOMAIN, "http://node", slow)
    for total in range(1, 100):
        account.tiling.closed = account.claimed = total
        sender.pay(account)
        await asyncio.sleep(0.01)
    assert len(node.taken) > 5
    assert await sender.drain(5.0)
    assert node.taken[-1] == "99"
    await sender.close()


async def test_a_sender_that_closes_leaves_no_voucher_in_the_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.vouchers.READY_SECONDS", 60.0)
    node, gate = TakingNode(), asyncio.Event()
    sender = VoucherSender(cast(NodeApi, node))

    async def slow(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        await gate.wait()
        return total

    before = asyncio.all_tasks()
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://node", slow, tiling=Tiling(5), claimed=5)
    sender.pay(account)
    await sender.close()
    # What was asked for is heard; nobody waits for it.
    assert asyncio.all_tasks() - before == {account.recording}
    gate.set()
    await asyncio.sleep(0.01)
    assert (asyncio.all_tasks() - before, node.taken) == (set(), [])
