"""Two routers write one channel, since its lane lapsed while a job ran: its node is paid, and it serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import NOW
from tests.lease_world import promise
from tests.router_books import read_books
from tests.router_world import DATABASE, World, database_url, router_world, running_router
from tests.until import until

from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import credit_key
from retally_router.ports import Standing

#: Nobody renews a lane by itself meanwhile.
LONG = {"lane_lease_seconds": 600.0, "node_stale_seconds": 60.0}


@asynccontextmanager
async def other_router(redis_url: str, world: World) -> AsyncIterator[World]:
    """It has the lane from its start: of one host, it knows that no other process holds it."""
    async with running_router(database_url(redis_url, DATABASE), world.nodes, **LONG) as other:
        other.api_key = world.api_key
        other.chain.fund(world.payer.address)
        yield other


async def learn_of_the_lapse(world: World) -> None:
    """As a renewal does that comes late."""
    await world.router.settle._lanes._renew_once()


async def check_books(world: World, node: FakeNode, answers: list[httpx.Response]) -> None:
    assert [answer.status_code for answer in answers] == [200] * len(answers), [each.text for each in answers]
    assert await world.settled()
    await until(lambda: all(account.is_idle for account in world.router.channels.accounts()))
    books = await read_books(world.redis, world.payer.address, [node])
    assert sum(int(answer.headers["x-retally-cost"]) for answer in answers) == sum(
        line.cum_to for line in node.lines.values()
    )
    for line in books.lines.values():
        assert (line.closed, line.beyond) == (line.cum_to, {})
        assert line.cum_to <= line.best <= line.promised
    assert await world.redis.llen("retally:faults") == 0


@pytest.mark.parametrize("learns", ["at once", "before the job ends", "after the job"])
@pytest.mark.parametrize("other_stays", [False, True])
async def test_a_job_that_goes_on_over_a_lapse_is_paid_and_its_node_serves_on(
    redis_url: str, learns: str, other_stays: bool
) -> None:
    node = FakeNode("a", seconds_per_token=0.02)
    async with router_world(redis_url, [node], **LONG) as world, AsyncExitStack() as others:
        first = asyncio.create_task(world.ask(seed=1, max_tokens=60))
        await until(lambda: bool(node.jobs))
        other = await others.enter_async_context(other_router(redis_url, world))
        if learns == "at once" and other_stays:
            # It moves to another lane.
            await world.redis.set("retally:lane:0", "elsewhere:1:1")
            await learn_of_the_lapse(world)
        second = await other.ask(seed=2, max_tokens=4)
        assert not first.done()
        assert await other.settled()
        if not other_stays:
            await others.aclose()
        if learns == "before the job ends":
            await learn_of_the_lapse(world)
        answers = [await first, second]
        if learns == "after the job":
            await learn_of_the_lapse(world)
        node.seconds_per_token = 0
        answers += [await world.ask(seed=seed) for seed in (3, 4)]
        await check_books(world, node, answers)


async def buy_what_is_free(world: World, fund: int) -> int:
    """Others promise all that nobody holds; answers what is promised in the end, once nothing is held."""
    signer, node = (SigningKey(keccak(name)).address for name in (b"buyer", b"elsewhere"))

    async def standing(*_: object) -> Standing:
        return Standing(fund, 0, 10**12, NOW * 2)

    buyer = Credit(world.redis, standing)
    for number in range(300):
        found = await world.redis.hgetall(credit_key(world.payer.address))
        promised = sum(int(value) for name, value in found.items() if name.startswith(b"promised:"))
        free = fund - promised - int(found.get(b"held", 0))
        if free > 0:
            await buyer.hold(world.payer.address, signer, f"{number}", free)
            channel = ChannelId(world.payer.address, signer, node, 0)
            await promise(buyer, channel, {f"{number}": free})
            await buyer.release(world.payer.address, f"{number}")
        if number > 100 and not int(found.get(b"held", 0)):
            return promised
        await asyncio.sleep(0.02)
    raise AssertionError("something is held for ever")


@pytest.mark.parametrize("lease_jobs", [0, 32])
async def test_a_job_that_another_router_takes_up_is_promised_once(
    redis_url: str, lease_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No answer ends by itself: what it costs beyond its first voucher is promised on its way.
    monkeypatch.setattr("tests.fakes_router_writer.STOP_ID", -1)
    node, fund = FakeNode("a", seconds_per_token=0.004), 20_000
    how = {**LONG, "credit_lease_jobs": lease_jobs}
    async with router_world(redis_url, [node], **how) as world:
        world.chain.fund(world.payer.address, fund)
        first = asyncio.create_task(world.ask(seed=1, max_tokens=400))
        await until(lambda: bool(node.jobs))
        async with running_router(database_url(redis_url, DATABASE), world.nodes, **how) as other:
            other.api_key = world.api_key
            other.chain.fund(world.payer.address, fund)
            # Its first job: it takes up what it believes a dead router left.
            second = await other.ask(seed=2, max_tokens=4)
            answers = [await first, second]
            assert await buy_what_is_free(world, fund) <= fund
            assert await other.settled()
            (line,) = node.lines.values()
            assert sum(int(answer.headers["x-retally-cost"]) for answer in answers) == line.cum_to <= line.best
