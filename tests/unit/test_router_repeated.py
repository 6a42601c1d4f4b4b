"""A request whose router died, asked again under its Idempotency-Key: shown by its node, made once, paid once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes_node import DEPLOYMENT, START, open_world
from tests.fakes_router import FakeNode
from tests.router_world import World, chat, check_error, router_world
from tests.unit.test_router_with_node import RealNode, body

from retally.errors import Conflict
from retally.protocol.receipt import FinishReason
from retally_router.begun_job import BegunJob
from retally_router.idempotency import Claim, IdempotentAnswers, StoredAnswer
from retally_router.job_log import JobRecord

KEY = {"idempotency-key": "k"}


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    # Slow enough that what is on record while it answers can be read.
    async with router_world(redis_url, [FakeNode("a", seconds_per_token=0.02)]) as built:
        yield built


async def ask(world: World, what: dict[str, Any]) -> httpx.Response:
    """One request that may be repeated."""
    return await world.http.post("/v1/chat/completions", json=what, headers={**world.auth, **KEY})


async def ask_and_die(world: World, what: dict[str, Any]) -> httpx.Response:
    """An answer that no client saw: the store is left as the router's death in mid-answer would leave it."""
    first = asyncio.create_task(ask(world, what))
    left = await seen(world)
    answer = await first
    assert answer.status_code == 200, answer.text
    assert await begun(world) is None, "whose end is known needs no node to tell it"
    assert await world.settled()
    async for place in world.redis.scan_iter("retally:idempotent:*"):
        await world.redis.delete(place)
    await world.redis.set(left[0], left[1])
    return answer


async def begun(world: World) -> tuple[bytes, bytes] | None:
    """What is on record of a job whose end is not known."""
    async for place in world.redis.scan_iter("retally:begun:*"):
        value = await world.redis.get(place)
        return None if value is None else (place, value)
    return None


async def seen(world: World) -> tuple[bytes, bytes]:
    """The same, as soon as it is there."""
    for _ in range(1000):
        if (left := await begun(world)) is not None:
            return left
        await asyncio.sleep(0.005)
    raise AssertionError("no job was begun")


def text_of(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


class TestRepeated:
    @pytest.mark.parametrize("changes", [{}, {"stream": True}, {"n": 2}, {"seed": None}])
    async def test_is_shown_and_neither_made_nor_paid_again(self, world: World, changes: dict[str, Any]) -> None:
        what = {name: value for name, value in {**chat(), **changes}.items() if value is not None}
        first = await ask_and_die(world, what)
        (line,) = world.nodes[0].lines.values()
        paid, produced = (line.best, line.cum_to), world.nodes[0].produced
        again = await ask(world, what)
        assert again.status_code == 200, again.text
        assert again.headers["x-retally-job"] == first.headers["x-retally-job"]
        if "stream" in changes:
            assert again.text == first.text
        else:
            assert again.json() == first.json()
        assert await world.settled()
        assert ((line.best, line.cum_to), world.nodes[0].produced) == (paid, produced)
        stored = await ask(world, what)
        assert stored.headers["idempotent-replayed"] == "true"

    async def test_of_which_its_node_knows_nothing_is_made(self, world: World) -> None:
        first = await ask_and_die(world, chat())
        world.nodes[0].receipts.clear()
        again = await ask(world, chat())
        assert again.status_code == 200
        assert again.headers["x-retally-job"] != first.headers["x-retally-job"]

    async def test_that_its_node_broke_off_is_made_anew(self, world: World) -> None:
        first, node = await ask_and_die(world, chat()), world.nodes[0]
        ((job_id, ((receipt, _),)),) = node.receipts.items()
        cut = replace(receipt, finish_reason=FinishReason.CANCELLED)
        node.receipts[job_id] = [(cut, node.key.sign(cut.digest(node.domain)))]
        again = await ask(world, chat())
        assert again.status_code == 200
        assert again.headers["x-retally-job"] != first.headers["x-retally-job"]
        assert len(node.jobs) == 2

    async def test_waits_while_its_node_does_not_say(self, world: World) -> None:
        first = await ask_and_die(world, chat())
        node = world.nodes[0]
        known = node.receipts.copy()
        for job in node.receipts:
            node.receipts[job] = []
        error = check_error(await ask(world, chat()), 409, "idempotency_in_flight")
        assert "has not closed the job yet" in error["message"]
        node.receipts.update(known)
        again = await ask(world, chat())
        assert again.headers["x-retally-job"] == first.headers["x-retally-job"]
        assert len(node.jobs) == 1

    async def test_with_another_body_is_another_request(self, world: World) -> None:
        await ask_and_die(world, chat())
        assert (await ask(world, chat(seed=77))).status_code == 200
        assert len(world.nodes[0].jobs) == 2

    async def test_that_was_told_an_error_is_made_anew_at_once(self, world: World) -> None:
        world.nodes[0].die_after = 2
        assert (await ask(world, chat())).status_code >= 500
        assert await begun(world) is None
        world.nodes[0].die_after = None
        again = await ask(world, chat())
        assert again.status_code == 200, again.text
        assert len({job.request.nonce for job in world.nodes[0].jobs}) == 2

    async def test_a_router_that_stalled_notes_and_forgets_nothing_of_its_successor(self, world: World) -> None:
        answers = IdempotentAnswers(world.redis)
        mine = await answers.claim(b"credential", b"key", b"/path", b"body")
        assert isinstance(mine, Claim)
        # Its claim lapsed, and another router holds the request and has noted its own job.
        await world.redis.delete(mine.place)
        other = await answers.claim(b"credential", b"key", b"/path", b"body")
        assert isinstance(other, Claim)
        note = mine.place.replace("idempotent", "begun", 1)
        job = BegunJob(JobRecord("0x01", {}, "node", "url", "model", {}, 0, 1, ((0, 0, 0),)), b"", {})
        await answers.begin(other, job)
        noted = await world.redis.get(note)
        with pytest.raises(Conflict, match="too slow"):
            await answers.begin(mine, job)
        await answers.forget(mine)
        await answers.keep(mine, StoredAnswer(200, [], b"{}"))
        assert await world.redis.get(note) == noted is not None
        assert await world.redis.get(mine.place) == other.raw

    async def test_store_alone_shows_no_request(self, world: World) -> None:
        first = asyncio.create_task(ask(world, chat()))
        left = await seen(world)
        assert world.payer.address.encode() not in left[1]
        assert 0 < await world.redis.ttl(left[0]) <= 300
        await first


class TestRealNode:
    async def test_shows_the_answer_that_it_stored(self, redis_url: str, tmp_path: Path) -> None:
        node = await open_world(tmp_path, max_context=4096)
        async with router_world(redis_url, [RealNode(node)], domain=DEPLOYMENT.domain, now=START) as world:
            first = await ask_and_die(world, body())
            (account,) = world.router.channels.accounts()
            before = node.node.book.find(account.channel.key).state()
            again = await ask(world, body())
            assert again.status_code == 200, again.text
            assert again.json()["retally"]["receipts"] == first.json()["retally"]["receipts"]
            assert text_of(again) == text_of(first)
            assert again.headers["x-retally-cost"] == first.headers["x-retally-cost"]
            assert await world.settled()
            assert node.node.book.find(account.channel.key).state() == before
        await node.close()
