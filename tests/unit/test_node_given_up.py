"""Jobs that nobody waits for, and engines that answer nonsense: room and credit come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.fakes_node import Customer, World, open_world
from tests.until import until

from retally.errors import UpstreamTimeout
from retally.inference.engine import Scores
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import MAX_MODEL_CHARACTERS, JobOptions, JobSubmission
from retally_node import run_job as serving
from retally_node.api import create_app
from retally_node.run_job import run_job


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(serving, "POLL_SECONDS", 0.02)
    world = await open_world(tmp_path, max_running=1, max_waiting=4)
    yield world
    await world.close()


class Reader:
    """A client that may go."""

    def __init__(self) -> None:
        self.left = False

    async def is_gone(self) -> bool:
        return self.left


async def scoring(customer: Customer, world: World) -> JobSubmission:
    params = customer.params(max_tokens=1, prompt_logprobs=4)
    return await customer.submission(world.node, params=params, audit_consent=False)


async def is_free(world: World, customer: Customer) -> None:
    """Nothing is held any more for a customer's jobs."""
    await until(lambda: world.node.server.room.admitted == 0)
    assert world.node.channel_state(customer.channel).open == 0
    assert world.node.channel_state(customer.channel).last_cum_to == 0


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_job_that_waits_for_its_turn_leaves_the_queue_unread(self, world: World, stream: bool) -> None:
        customer, ahead, reader = Customer(), Customer(lane=9), Reader()
        await world.node.server.room.turns.acquire()
        jobs = [
            asyncio.create_task(
                run_job(world.node, await customer.submission(world.node, stream=stream), reader.is_gone)
            )
            for _ in range(5)
        ]
        await until(lambda: world.node.server.room.admitted == 5)
        reader.left = True
        for job in jobs:
            with pytest.raises(UpstreamTimeout, match="the client left"):
                await asyncio.wait_for(job, 10)
        await is_free(world, customer)
        assert (world.engine.running, world.engine.produced) == (0, 0)
        world.node.server.room.turns.release()
        await run_job(world.node, await ahead.submission(world.node), Reader().is_gone)

    async def test_a_job_in_its_prefill_ends_there(self, world: World) -> None:
        customer, reader = Customer(), Reader()
        world.engine.delay_seconds = 60
        job = asyncio.create_task(
            run_job(world.node, await customer.submission(world.node, stream=True), reader.is_gone)
        )
        await until(lambda: world.engine.running == 1)
        reader.left = True
        with pytest.raises(UpstreamTimeout, match="the client left"):
            await asyncio.wait_for(job, 10)
        await is_free(world, customer)
        assert world.engine.running == 0

    async def test_scores_that_nobody_waits_for_are_not_made(self, world: World) -> None:
        customer, reader, asked = Customer(), Reader(), asyncio.Event()
        ended: list[bool] = []

        async def endless(ids: Sequence[int], start: int, top: int = 64) -> Scores:
            asked.set()
            try:
                return await asyncio.Future()
            finally:
                ended.append(True)

        world.engine.score = endless  # type: ignore[method-assign]
        job = asyncio.create_task(run_job(world.node, await scoring(customer, world), reader.is_gone))
        await asked.wait()
        reader.left = True
        with pytest.raises(UpstreamTimeout, match="the client left"):
            await asyncio.wait_for(job, 10)
        assert ended
        await is_free(world, customer)

    async def test_a_server_that_drops_the_request_closes_the_job(self, world: World) -> None:
        customer = Customer()
        world.engine.delay_seconds = 60
        sent = await customer.submission(world.node, stream=True)
        job = asyncio.create_task(run_job(world.node, sent, Reader().is_gone))
        await until(lambda: world.engine.running == 1)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(job, 10)
        await is_free(world, customer)
        (record,) = world.node.ledger.jobs.receipts(sent.request.digest(customer.domain))
        assert (record.receipt.finish_reason, record.receipt.fee) == (FinishReason.CANCELLED, 0)


class TestNonsense:
    @pytest.mark.parametrize("error", [msgspec.DecodeError("<html>"), IndexError(0), asyncio.CancelledError()])
    async def test_scores_that_fail_however_hold_no_room(self, world: World, error: BaseException) -> None:
        customer = Customer()

        async def garbage(ids: Sequence[int], start: int, top: int = 64) -> Scores:
            raise error

        honest, world.engine.score = world.engine.score, garbage  # type: ignore[method-assign]
        for _ in range(6):
            with pytest.raises((type(error), UpstreamTimeout)):
                await run_job(world.node, await scoring(customer, world), Reader().is_gone)
        await is_free(world, customer)
        world.engine.score = honest  # type: ignore[method-assign]
        await run_job(world.node, await scoring(customer, world), Reader().is_gone)


class TestNames:
    async def test_a_long_name_of_the_model_is_refused_before_it_is_repeated(self, world: World) -> None:
        customer = Customer()
        transport = httpx.ASGITransport(create_app(world.node))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            for size, status in ((MAX_MODEL_CHARACTERS, 200), (MAX_MODEL_CHARACTERS + 1, 400)):
                options = JobOptions(model="m" * size)
                sent = await customer.submission(world.node, stream=True, options=options)
                reply = await client.post("/retally/v1/jobs", json=sent.to_wire())
                assert reply.status_code == status
        assert "at most 256 characters" in reply.json()["error"]["message"]
