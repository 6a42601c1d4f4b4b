"""A hedged job through a whole router: quick although its node is stuck, paid once, books closed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from tests.fakes_router import FakeNode
from tests.fakes_world import MODEL
from tests.router_books import read_books
from tests.router_world import World, router_world

from retally.errors import EngineUnavailable
from retally.protocol.pricing import input_fee_round_down
from retally.protocol.receipt import FinishReason
from retally_router.make_request import tokens_at_most

#: Jobs that earn one hedge at the largest share that the settings allow.
JOBS = 10
PROMPT = "count again and again"


async def ask(world: World, **changes: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "seed": 1, **changes}
    return await world.http.post("/v1/completions", json=body, headers=world.auth)


async def earned(world: World) -> None:
    """Enough jobs for one hedge, all done."""
    for _ in range(JOBS):
        assert (await ask(world)).status_code == 200


async def closed(world: World) -> Any:
    """The books, once nothing is under way."""
    for _ in range(300):
        books = await read_books(world.redis, world.payer.address, world.nodes)
        if books.is_closed:
            return books
        await asyncio.sleep(0.05)
    raise AssertionError("the books did not close")


async def test_a_late_node_is_raced_and_left(redis_url: str) -> None:
    stuck, quick = FakeNode("a"), FakeNode("b")
    async with router_world(redis_url, [stuck, quick], hedge_share=0.1, first_byte_seconds=20.0) as world:
        await earned(world)
        stuck.seconds_per_token = 60.0
        before = {node.name: len(node.jobs) for node in (stuck, quick)}
        answer = await ask(world, provider={"order": [stuck.address]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["retally"]["node"] == quick.address
        assert [len(node.jobs) - before[node.name] for node in (stuck, quick)] == [1, 1]
        one, other = stuck.jobs[-1], quick.jobs[-1]
        assert one.request == other.request
        assert one.assignments[0].assignment.counter != other.assignments[0].assignment.counter
        await asyncio.wait_for(stuck.rest(), 5)
        assert stuck.cancelled == 1
        books = await closed(world)
        receipt, _ = stuck.receipts[one.assignments[0].assignment.job_id][-1]
        # Without output it bills nothing; the input that was vouched ahead stays for the channel's next receipt.
        assert (receipt.finish_reason, receipt.fee) == (FinishReason.CANCELLED, 0)
        line = books.lines[one.voucher.channel]
        bound = tokens_at_most({"prompt": PROMPT})
        fee = input_fee_round_down(stuck.offer.prices, prompt_tokens=bound, choice=0, output_from=0)
        assert line.closed == line.cum_to <= line.best <= line.cum_to + fee
        assert world.router.watch.of(stuck.address).in_flight == world.router.watch.of(quick.address).in_flight == 0
        assert world.router.watch.of(stuck.address).breaker.failures == 0


async def test_who_was_late_goes_on_where_the_winner_breaks_off(redis_url: str) -> None:
    late, quick = FakeNode("a"), FakeNode("b")
    async with router_world(redis_url, [late, quick], hedge_share=0.1, first_byte_seconds=20.0) as world:
        await earned(world)
        late.seconds_per_token, quick.die_after = 1.0, 6
        # The winner breaks off before the loser has closed its part.
        late.seconds_to_close = 0.3

        async def hasten() -> None:
            async with late.ended:
                await late.ended.wait_for(lambda: late.cancelled)
            late.seconds_per_token = 0.0

        hastened = asyncio.create_task(hasten())
        answer = await ask(world, provider={"order": [late.address]})
        await hastened
        assert answer.status_code == 200, answer.text
        assert answer.json()["retally"]["node"] == late.address
        assert [job.assignments[0].assignment.output_from for job in late.jobs[-2:]] == [0, 6]
        assert answer.json()["usage"]["completion_tokens"] == 12
        await closed(world)


async def test_who_never_closes_its_part_is_not_waited_for(redis_url: str) -> None:
    late, quick, third = FakeNode("a"), FakeNode("b"), FakeNode("c", refuse=EngineUnavailable("no engine"))
    async with router_world(redis_url, [late, quick, third], hedge_share=0.1, first_byte_seconds=20.0) as world:
        await earned(world)
        late.seconds_per_token, late.seconds_to_close, quick.die_after = 1.0, 10.0, 6
        began = asyncio.get_running_loop().time()
        answer = await ask(world, provider={"order": [late.address, quick.address]})
        assert answer.status_code == 503
        assert "no other node could go on" in answer.json()["error"]["message"]
        assert asyncio.get_running_loop().time() - began < 8


async def test_no_hedge_without_a_budget(redis_url: str) -> None:
    stuck, quick = FakeNode("a"), FakeNode("b")
    async with router_world(redis_url, [stuck, quick], hedge_share=0.0, first_byte_seconds=20.0) as world:
        await earned(world)
        stuck.seconds_per_token = 0.05
        done = len(quick.jobs)
        answer = await ask(world, provider={"order": [stuck.address]})
        assert answer.json()["retally"]["node"] == stuck.address
        assert len(quick.jobs) == done


async def test_one_hedge_a_job_and_a_share_of_all(redis_url: str) -> None:
    stuck, quick = FakeNode("a"), FakeNode("b")
    async with router_world(redis_url, [stuck, quick], hedge_share=0.1, first_byte_seconds=2.0) as world:
        await earned(world)
        stuck.seconds_per_token = quick.seconds_per_token = 60.0
        answer = await ask(world)
        assert answer.status_code == 504
        stuck.seconds_per_token = quick.seconds_per_token = 0.0
        assert (await ask(world)).status_code == 200
        books = await closed(world)
        assert all(line.closed == line.cum_to for line in books.lines.values())
        assert world.router.watch.of(stuck.address).in_flight == 0


async def test_the_winner_that_breaks_off_is_continued(redis_url: str) -> None:
    stuck, dying, third = FakeNode("a"), FakeNode("b"), FakeNode("c")
    async with router_world(redis_url, [stuck, dying, third], hedge_share=0.1, first_byte_seconds=20.0) as world:
        await earned(world)
        stuck.seconds_per_token, dying.die_after = 60.0, 3
        answer = await ask(world, provider={"order": [stuck.address, dying.address]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["retally"]["node"] == third.address
        plain = await ask(world, provider={"only": [third.address]})
        assert answer.json()["choices"][0]["text"] == plain.json()["choices"][0]["text"]
        await closed(world)
