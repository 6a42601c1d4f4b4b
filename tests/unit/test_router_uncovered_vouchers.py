"""Vouchers of accounts whose money, signer or chain is in the way: set aside, and no other's wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from redis.asyncio import Redis
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN
from tests.holds_world import KEY, TakingNode, owe
from tests.lease_world import NODE, PAYER, SIGNER, Breaking, LeaseWorld, hold, line, lose, promised, sell
from tests.router_world import check_error, router_world

from retally.errors import ChainUnreachable, Unavailable
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.credit_keys import credit_key
from retally_router.earmarks import Ask, Count, Promised
from retally_router.ports import NodeApi, Standing
from retally_router.vouchers import VoucherSender

OTHER = SigningKey(keccak(b"another payer")).address


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=160)


@pytest.fixture
def node() -> TakingNode:
    return TakingNode()


@pytest.fixture
def sender(node: TakingNode, monkeypatch: pytest.MonkeyPatch) -> VoucherSender:
    monkeypatch.setattr("retally_router.vouchers.LAST_DELAY_SECONDS", 0.3)
    return VoucherSender(cast(NodeApi, node))


def owing(credit: Credit, channel: ChannelId, job: str, amount: int) -> ChannelAccount:
    """A channel whose node is owed so much for a job."""
    account = ChannelAccount(channel, KEY, DOMAIN, "http://node", credit.promise)
    owe(account, job, amount)
    return account


async def test_what_nothing_covers_waits_and_holds_up_no_other(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender
) -> None:
    credit, other = world.process(), world.process(0)
    await hold(credit, "0a")
    await lose(world)
    await hold(other, "b", 160)
    # Whatever a dead router's job cost is promised, covered or not.
    short, fine = owing(credit, line(0), "0a", 10), owing(credit, line(1), "0d", 7)
    sender.pay(short)
    sender.pay(fine)
    # One of them has not what it is owed.
    assert not await sender.drain(5.0)
    assert node.taken == ["7"]
    await other.release(PAYER, "b")
    await asyncio.sleep(0.5)
    assert await sender.drain(5.0)
    assert node.taken == ["7", "10"]
    sender.pay(short)
    await sender.close()


@pytest.mark.parametrize("missing", ["signer", "chain"])
async def test_a_payer_whose_signer_expired_or_whose_chain_is_away_holds_up_no_other(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender, missing: str
) -> None:
    is_missing = False

    async def standing(payer: Address, signer: Address, fresh: bool) -> Standing:
        found = await world.standing(payer, signer, fresh)
        if not is_missing or payer == OTHER:
            return found
        if missing == "chain":
            raise ChainUnreachable("away")
        return Standing(found.balance, found.used, found.cap, 0)

    credit = Credit(world.redis, standing, lambda: world.now, lease_jobs=8, ticks=world.ticks)
    await hold(credit, "0a")
    await hold(credit, "0b", payer=OTHER)
    await lose(world)
    is_missing = True
    for account in (
        owing(credit, line(0), "0a", 10),
        owing(credit, ChannelId(OTHER, SIGNER, NODE, 0), "0b", 7),
    ):
        sender.pay(account)
    assert not await sender.drain(5.0)
    assert node.taken == ["7"]
    is_missing = False
    await asyncio.sleep(0.5)
    assert await sender.drain(5.0)
    assert node.taken == ["7", "10"]
    await sender.close()


async def test_a_job_that_ended_while_its_share_was_asked_for_holds_up_no_other(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender
) -> None:
    credit, tries = world.process(), iter([True, True, False])
    await hold(credit, "0a")
    await hold(credit, "0b")
    ending, fine = owing(credit, line(0), "0a", 10), owing(credit, line(1), "0b", 7)
    promise = ending.promise

    async def ended(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        if next(tries):
            raise Unavailable("job ended before its fee was set aside")
        return await promise(channel, asks, count)

    ending.promise = ended
    sender.pay(ending)
    sender.pay(fine)
    # It is asked for again at once, and waited for.
    assert await sender.drain(5.0)
    assert node.taken == ["7", "10"]
    await sender.close()


async def test_one_that_is_set_aside_twice_waits_for_the_last_time(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender
) -> None:
    """Its voucher took long to make, and one over less was refused meanwhile."""
    credit = world.process()
    await hold(credit, "0a")
    account = owing(credit, line(0), "0a", 10)
    sender.pay(account)
    for seconds in (0.05, 0.4):
        sender._set_aside(account, seconds, sender._soon)
    await asyncio.sleep(0.2)
    assert (node.taken, list(sender._soon)) == ([], [account.channel.key])
    assert await sender.drain(5.0)
    assert node.taken == ["10"]
    await sender.close()


async def test_many_that_nothing_covers_take_no_time(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender
) -> None:
    payers = [SigningKey(keccak(b"%d" % number)).address for number in range(5)]
    credit, dead, other = world.process(), world.process(), world.process(0)
    for number, payer in enumerate(payers):
        await hold(credit, f"0{number}", payer=payer)
    for number, payer in enumerate(payers[:-1]):
        await lose(world, payer)
        # A lease that nobody gives back, and all the rest.
        await hold(dead, f"1{number}", payer=payer)
        await hold(other, f"2{number}", 139, payer=payer)
    for number, payer in enumerate(payers):
        sender.pay(owing(credit, ChannelId(payer, SIGNER, NODE, 0), f"0{number}", 10))
    await asyncio.wait_for(node.is_paid.wait(), 1)
    await sender.close()


async def test_a_store_that_broke_off_has_nothing_signed_that_it_forgot(
    world: LeaseWorld, node: TakingNode, sender: VoucherSender
) -> None:
    store = Breaking(world.redis)
    credit = world.process(8, store)
    await hold(credit, "0a")
    store.is_gone = True
    sender.pay(owing(credit, line(0), "0a", 10))
    await asyncio.sleep(0.1)
    await lose(world)
    await sell(world, 160)
    store.is_gone = False
    assert not await sender.drain(5.0)
    assert (node.taken, await promised(world)) == ([], 160)
    await sender.close()


@pytest.mark.parametrize("missing", ["signer", "chain"])
async def test_a_job_that_no_voucher_can_be_made_for_is_nowhere(redis_url: str, missing: str) -> None:
    node = FakeNode("a")
    async with router_world(redis_url, [node], credit_lease_jobs=32) as world:
        assert (await world.ask()).status_code == 200
        (account,) = world.router.channels.accounts()
        payer, promise = world.payer.address, account.promise

        async def forgetful(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
            # The job was set aside; the store forgot it, and meanwhile its signer expired, or its chain went away.
            await world.redis.delete(credit_key(payer))
            world.chain.dead = missing == "chain"
            world.chain.standings[payer] = replace(world.chain.standings[payer], expiry=0)
            await asyncio.sleep(0.1)
            return await promise(channel, asks, count)

        account.promise = forgetful
        answer = await world.ask(seed=2)
        check_error(answer, *((503, "chain_unreachable") if missing == "chain" else (401, "signer_expired")))
        assert len(node.jobs) == 1
        assert await world.redis.hlen(f"retally:{{{payer}}}:open") == 0
        assert not account.open
