"""A job that has ended whole, and what the store lacks of it: its record goes only with its receipts."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.fakes_router import FakeNode
from tests.router_books import read_books
from tests.router_world import World, router_world

from retally.protocol.encoding import to_hex
from retally_router.job_log import JobLog

TOKENS = 12
PAUSE_MS = 1500


async def ended_unheard(world: World, node: FakeNode) -> str:
    """A job whose client leaves while its receipt's write is under way; the write fails once it has left."""
    asking = asyncio.create_task(world.ask(max_tokens=TOKENS))
    for _ in range(500):
        if node.produced >= TOKENS - 2:
            break
        await asyncio.sleep(0.01)
    job = to_hex(node.jobs[-1].assignments[0].assignment.job_id)
    # Its place in the store is of another kind: what is to be kept there is refused.
    await world.redis.set(f"retally:job:{job}", "none")
    await world.redis.execute_command("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
    for _ in range(100):
        if any(account.batch is not None or account.lock.locked() for account in world.router.channels.accounts()):
            break
        await asyncio.sleep(0.01)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    return job


@pytest.mark.parametrize("server", ["asgi", "native"])
async def test_one_whose_client_left_is_not_forgotten_before_its_receipts_are_on_record(
    redis_url: str, server: str
) -> None:
    node = FakeNode("a")
    async with router_world(redis_url, [node], server=server) as world:
        assert (await world.ask(max_tokens=TOKENS)).status_code == 200
        node.produced, node.seconds_per_token = 0, 0.05
        job = await ended_unheard(world, node)
        await asyncio.sleep(2 * PAUSE_MS / 1000)
        # Nothing of it is on record, so the router still has it to see to.
        (account,) = world.router.channels.accounts()
        opened = await JobLog(world.redis).open_jobs(world.payer.address, account.channel.signer)
        assert [record.job_id for record in opened] == [job]
        await world.redis.delete(f"retally:job:{job}")
        for _ in range(300):
            books = await read_books(world.redis, world.payer.address, world.nodes)
            if books.is_closed:
                break
            await asyncio.sleep(0.05)
        assert books.is_closed
        assert [len(books.receipts[job]), len(node.jobs)] == [1, 2]
