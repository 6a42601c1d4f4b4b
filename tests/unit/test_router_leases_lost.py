"""Credit leased in blocks over a store that comes back without its last writes, or whose lease another has ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.lease_world import NODE, PAYER, SIGNER, Breaking, LeaseWorld, hold

from retally.errors import InsufficientFunds
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit_keys import credit_key, leases_key
from retally_router.leases import IDLE_SECONDS
from retally_router.ports import NodeApi
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

CHANNEL = ChannelId(PAYER, SIGNER, NODE, 0)


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis)


async def lose(world: LeaseWorld) -> None:
    """The store comes back without what it was told last."""
    await world.redis.delete(credit_key(PAYER), leases_key(PAYER))


async def promised(world: LeaseWorld) -> int:
    return int(await world.redis.hget(credit_key(PAYER), f"promised:{SIGNER}") or 0)


class TestStoreThatForgot:
    async def test_what_others_hold_now_is_promised_nowhere_else(self, world: LeaseWorld) -> None:
        world.balance = 160
        credit, other = world.process(), world.process(0)
        await hold(credit, "a")
        await lose(world)
        await hold(other, "b", 160)
        # It takes of the block, of which the store knows nothing.
        await hold(credit, "c")
        for job in "ac":
            with pytest.raises(InsufficientFunds):
                await credit.promise(CHANNEL, 10, {job: 10})
        assert await promised(world) == 0
        await other.promise(ChannelId(PAYER, SIGNER, NODE, 1), 160, {"b": 160})
        with pytest.raises(InsufficientFunds):
            await credit.promise(CHANNEL, 10, {"a": 10})
        assert await promised(world) == 160
        for job in "ac":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert (await credit.holds(PAYER, SIGNER), list(credit.leases)) == ([("b", 0)], [])

    async def test_while_enough_is_left_its_jobs_hold_for_themselves(self, world: LeaseWorld) -> None:
        credit = world.process()
        for job in "ab":
            await hold(credit, job)
        await lose(world)
        assert await credit.promise(CHANNEL, 7, {"a": 7}) == 7
        assert await credit.holds(PAYER, SIGNER) == [("a", 0)]
        assert (await world.held(), await promised(world)) == (3, 7)
        assert await credit.promise(CHANNEL, 14, {"b": 7}) == 14
        # New jobs lease anew.
        await hold(credit, "c")
        assert len(await world.open_leases()) == 1
        for job in "abc":
            await credit.release(PAYER, job)
        await credit.tidy()
        await credit.close()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])

    async def test_an_earlier_hold_covers_no_more_than_it_says(self, world: LeaseWorld) -> None:
        world.balance = 800
        credit, other = world.process(2), world.process(0)
        await hold(credit, "a")
        await hold(credit, "b")
        earlier = await world.redis.hgetall(credit_key(PAYER))
        await hold(credit, "c")
        await hold(credit, "d")
        await world.redis.delete(credit_key(PAYER))
        await world.redis.hset(credit_key(PAYER), mapping=dict(earlier))
        await hold(other, "e", 780)
        for job, left in (("c", 0), ("a", 0)):
            with pytest.raises(InsufficientFunds, match=f"10 needed, {left} available"):
                await credit.promise(CHANNEL, 10, {job: 10})
        for job in "cd":
            await credit.release(PAYER, job)
        # Two of four are gone: the hold that is left covers the others.
        assert await credit.promise(CHANNEL, 10, {"a": 10}) == 10
        assert await credit.promise(CHANNEL, 20, {"b": 10}) == 20
        assert await promised(world) + await world.held() == 800

    async def test_giving_back_shows_it_too(self, world: LeaseWorld) -> None:
        credit = world.process()
        await hold(credit, "a")
        await lose(world)
        world.now += IDLE_SECONDS + 0.1
        await credit.tidy()
        (lease,) = credit.leases
        assert (lease.is_lost, lease.is_retired, lease.free) == (True, True, 0)

    async def test_the_next_block_shows_it_too(self, world: LeaseWorld) -> None:
        world.balance = 1600
        credit = world.process(2)
        await hold(credit, "a")
        await hold(credit, "b")
        await lose(world)
        await hold(credit, "c")
        await hold(credit, "d")
        assert [lease.is_lost for lease in credit.leases] == [True, False]
        assert len(await credit.holds(PAYER, SIGNER)) == 2

    async def test_what_a_job_holds_for_itself_ends_with_it(self, world: LeaseWorld) -> None:
        store = Breaking(world.redis)
        credit = world.process(2, store)
        await hold(credit, "a")
        await hold(credit, "b")
        await lose(world)
        world.balance = 5
        with pytest.raises(InsufficientFunds):
            await credit.promise(CHANNEL, 10, {"a": 10})
        world.balance = 10_000
        store.is_late = True
        with pytest.raises(StoreUnreachable):
            await credit.promise(CHANNEL, 10, {"a": 10})
        store.is_late = False
        assert await credit.promise(CHANNEL, 10, {"a": 10}) == 10
        # Of two who look after it at once, one does.
        await asyncio.gather(*(credit.promise(ChannelId(PAYER, SIGNER, NODE, lane), 5, {"b": 5}) for lane in (1, 2)))
        assert (await promised(world), await world.held()) == (20, 0)
        for job in "ab":
            await credit.release(PAYER, job)
        await credit.tidy()
        assert (await world.held(), await credit.holds(PAYER, SIGNER)) == (0, [])


class Node:
    """A node that takes every voucher."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def send_vouchers(self, endpoint: str, signed: list[dict[str, Any]]) -> None:
        self.taken += [each["voucher"]["cumulative"] for each in signed]


class TestVouchers:
    async def test_what_nothing_covers_waits_and_holds_up_no_other(
        self, world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("retally_router.vouchers.LAST_DELAY_SECONDS", 0.3)
        world.balance = 160
        credit, other, node = world.process(), world.process(0), Node()
        await hold(credit, "0a")
        await lose(world)
        await hold(other, "b", 160)
        sender = VoucherSender(cast(NodeApi, node))
        lines = [ChannelId(PAYER, SIGNER, NODE, lane) for lane in (0, 1)]
        key = SigningKey(keccak(b"session"))
        short, fine = [ChannelAccount(line, key, DOMAIN, "http://node", credit.promise) for line in lines]
        short.owing, short.wanted, fine.wanted = {bytes.fromhex("0a"): 10}, 10, 7
        sender.pay(short)
        sender.pay(fine)
        assert await sender.drain(5.0)
        assert node.taken == ["7"]
        await other.release(PAYER, "b")
        await asyncio.sleep(0.5)
        assert await sender.drain(5.0)
        assert node.taken == ["7", "10"]
        sender.pay(short)
        await sender.close()


class TestAdopted:
    async def test_a_lease_that_another_ended_promises_nothing_by_itself(self, world: LeaseWorld) -> None:
        world.balance = 160
        credit, other = world.process(), world.process()
        await hold(credit, "a")
        (name,) = await world.open_leases()
        await other.release(PAYER, name)
        await hold(other, "b", 155)
        with pytest.raises(InsufficientFunds, match="10 needed, 5 available"):
            await credit.promise(CHANNEL, 10, {"a": 10})
        await other.release(PAYER, "b")
        assert await credit.promise(CHANNEL, 10, {"a": 10}) == 10

    async def test_it_gets_no_block_of_it_later(self, world: LeaseWorld) -> None:
        credit, other = world.process(2), world.process()
        await hold(credit, "a")
        await hold(credit, "b")
        (name,) = await world.open_leases()
        await other.release(PAYER, name)
        for job in "ab":
            await credit.release(PAYER, job)
        await hold(credit, "c", 30)
        assert name not in await world.open_leases()
