"""JSON of strangers that nests deep: refused with a reason, and never what keeps a node from answering."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.fakes_node import START, Customer, World, open_world

from retally.chain.recursion import DEPTH, bound_recursion
from retally.errors import BadRequest
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import AnswerRequest
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.job import canonical_json
from retally.protocol.nesting import MAX_LEVELS, check_levels
from retally.protocol.openai_request import prompt_of_body
from retally.protocol.wire import AnswerBundle, SignedAnswerRequest
from retally_node.api import create_app
from retally_node.run_job import run_job
from retally_router.make_request import parse_body, read_ask

VERIFIER = SigningKey(keccak(b"verifier"))


def nested(levels: int, *, objects: bool = False) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = {"x": value} if objects else [value]
    return value


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path)
    yield world
    await world.close()


def asking(world: World) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(world.node), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://node")


async def present() -> bool:
    return False


class TestBound:
    @pytest.mark.parametrize("objects", [False, True])
    def test_counts_lists_and_objects_as_levels(self, objects: bool) -> None:
        check_levels("x", nested(MAX_LEVELS, objects=objects))
        with pytest.raises(BadRequest, match="deeper than 64"):
            check_levels("x", [0, nested(MAX_LEVELS, objects=objects)])

    def test_looks_without_recursion_and_stops_at_the_bound(self) -> None:
        value = nested(100_000)
        started = time.perf_counter()
        with pytest.raises(BadRequest):
            check_levels("x", value)
        assert time.perf_counter() - started < 1
        while value:
            value = value.pop()

    def test_what_nests_beyond_the_interpreters_own_limit_is_no_canonical_json(self) -> None:
        bound_recursion()
        with pytest.raises(BadRequest, match="nests too deep"):
            canonical_json(nested(2 * DEPTH))


class TestNode:
    @pytest.mark.parametrize("levels", [MAX_LEVELS, 300, 800])
    @pytest.mark.parametrize("inside", ["prompt", "message"])
    async def test_a_prompt_is_refused_with_the_reason(self, world: World, levels: int, inside: str) -> None:
        customer = Customer()
        deep = nested(levels)
        prompt = {"prompt": "hi", "x": deep}
        if inside == "message":
            prompt = {"messages": [{"role": "user", "content": "hi", "x": deep}]}
        wire = (await customer.submission(world.node)).to_wire() | {"prompt": prompt}
        async with asking(world) as client:
            reply = await client.post("/retally/v1/jobs", content=msgspec.json.encode(wire))
        assert reply.status_code == 400, reply.text
        assert "deeper than 64 levels" in reply.json()["error"]["message"]

    async def test_what_nests_less_is_served_with_keys_that_nobody_knows(self, world: World) -> None:
        customer = Customer()
        prompt = {"prompt": "hi", "x": nested(MAX_LEVELS - 1)}
        sent = await customer.submission(world.node, prompt=prompt, params=customer.params(endpoint="text"))
        async with asking(world) as client:
            reply = await client.post("/retally/v1/jobs", json=sent.to_wire())
        assert reply.status_code == 200, reply.text

    @pytest.mark.parametrize("levels", [300, 600])
    async def test_a_job_of_old_books_is_shown_to_auditors_however_deep(self, world: World, levels: int) -> None:
        customer = Customer()
        prompt = {"prompt": "hi", "x": nested(levels)}
        await run_job(
            world.node,
            await customer.submission(world.node, prompt=prompt, params=customer.params(endpoint="text")),
            present,
        )
        await world.node.settlement.settle_now()
        (commit,) = world.node.ledger.commits.commits()
        points: Any = ()
        while not points:
            seed = os.urandom(32)
            points = drawn_points(seed, commit.ranges, world.node.address, commit.record.step)
        world.audits.seeds[commit.record.id] = seed
        world.audits.verifiers.add(VERIFIER.address)
        request = AnswerRequest(
            commit_id=commit.record.id,
            channel=points[0].channel,
            point=points[0].point,
            verifier=VERIFIER.address,
            deadline=START + 60,
        )
        signed = SignedAnswerRequest(request, VERIFIER.sign(request.digest(world.node.domain)))
        async with asking(world) as client:
            reply = await client.post("/retally/v1/answers", json=signed.to_wire())
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        assert AnswerBundle.from_wire(msgspec.json.decode(reply.content)).prompt == prompt


class TestRouter:
    @pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 300, 800])
    def test_a_prompt_is_refused_with_the_reason(self, levels: int) -> None:
        raw = msgspec.json.encode({"model": "m", "prompt": nested(levels)})
        with pytest.raises(BadRequest, match="deeper than 64 levels"):
            read_ask(parse_body(raw), "text", default_max_tokens=8, now=START)

    def test_batches_of_one_are_what_they_were(self) -> None:
        assert prompt_of_body({"prompt": [["hi"]]}, "text") == {"prompt": "hi"}
