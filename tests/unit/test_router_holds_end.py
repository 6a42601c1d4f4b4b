"""When a job's hold ends: not before all is settled and promised that its nodes may be owed, at several nodes too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.books import Books
from tests.fakes_world import DOMAIN
from tests.holds_world import (
    JOB,
    KEY,
    Asking,
    OwnLane,
    SlowNode,
    TwoNodes,
    begun,
    bill,
    rest,
    settling,
)
from tests.lease_world import PAYER, SIGNER, LeaseWorld, line, promised

from retally.errors import Unavailable
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.earmarks import Ask, Count, Promised
from retally_router.keys import Session
from retally_router.vouchers import VoucherSender


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=100)


async def test_the_last_of_two_nodes_that_is_settled_frees_a_dead_routers_job(world: LeaseWorld) -> None:
    dead, credit, books, place = world.process(0), world.process(0), Books(world.redis, line(3)), f"0x{JOB}:0xB"
    await dead.hold(PAYER, SIGNER, JOB, 100, lane=3)
    for node_name in ("0xA", "0xB"):
        await books.begin(f"0x{JOB}:{node_name}")
    await dead.promise(line(3), [Ask(place, JOB, 20)])
    node = SlowNode()
    node.gate.set()
    sender = VoucherSender(cast(Any, node))
    account = ChannelAccount(line(3), KEY, DOMAIN, "http://n", credit.promise, promised=20, delivered=20)
    settle = settling(credit, sender, TwoNodes(account, books), OwnLane())
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.1)
    assert await world.held() == 80
    settle.shows.set()
    assert await sender.drain(2.0)
    await asyncio.sleep(0.1)
    assert (await promised(world), await world.held()) == (90, 0)


async def test_a_hold_outlasts_a_place_of_its_job_that_another_router_settles(world: LeaseWorld) -> None:
    dead, credit, books = world.process(0), world.process(0), Books(world.redis, line(3))
    ours, theirs = f"0x{JOB}:0xA", f"0x{JOB}:0xB"
    await dead.hold(PAYER, SIGNER, JOB, 100, lane=3)
    for place in (ours, theirs, f"0x{'0b' * 32}:0xA"):
        await books.begin(place)
    await credit.release(PAYER, JOB, settled=[ours])
    assert await world.held() == 100
    await books.forget(theirs)
    # Neither its own place, settled and not forgotten yet, nor another job's is in the way.
    await credit.release(PAYER, JOB, settled=[ours])
    assert await world.held() == 0


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_hold_outlasts_the_winners_last_promise_where_the_loser_is_settled_first(
    world: LeaseWorld, lease_jobs: int
) -> None:
    credit, node, gate = world.process(lease_jobs), SlowNode(), asyncio.Event()
    sender = VoucherSender(cast(Any, node))
    settle = settling(credit, sender)
    account = await begun(credit)

    async def late(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        await gate.wait()
        return await credit.promise(channel, asks, count)

    account.promise = late
    bill(account, 80)
    sender.pay(account)
    # The loser is settled while the winner's last promise is on its way.
    settle._settling.start(f"0x{JOB}", "0xB", asyncio.sleep(0.05))
    await settle.release(PAYER, JOB, account)
    await asyncio.sleep(0.2)
    assert (await promised(world), await world.held()) == (30, 70)
    gate.set()
    await asyncio.sleep(0.1)
    assert (await promised(world), await rest(world, credit)) == (80, 0)
    node.gate.set()
    assert await sender.drain(2.0)


async def test_a_past_that_was_not_read_is_read_again_by_the_next_job(world: LeaseWorld) -> None:
    credit, lanes = world.process(0), OwnLane(is_lapsed=True)
    account = ChannelAccount(line(3), KEY, DOMAIN, "http://n", credit.promise)
    sender = VoucherSender(cast(Any, SlowNode()))
    settle = settling(credit, sender, TwoNodes(account), lanes)
    await credit.hold(PAYER, SIGNER, "other", 1, lane=3)
    settle._recovered.add(SIGNER)
    with pytest.raises(Unavailable):
        await settle.recover(cast(Session, Asking()))
    lanes.is_lapsed = False
    assert await settle.recover(cast(Session, Asking())) == 5
