"""Nobody gets an honest node to sign what contradicts it, or to work for nothing (R-19 to R-21)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes_node import NODE_KEY, Customer, World, open_world

from retally.errors import RetallyError, UpstreamTimeout
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.receipt import Chunk, FinishReason
from retally.protocol.wire import JobSubmission
from retally_node.admission import AdmittedJob
from retally_node.records import ChunkRecord
from retally_node.recovery import close_open_segments
from retally_node.segment import Frame


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path, chunk_tokens=4)


async def admitted(world: World, submission: JobSubmission) -> AdmittedJob:
    job = await world.node.admission.admit(submission)
    assert isinstance(job, AdmittedJob)
    return job


class TestAdmission:
    @pytest.mark.parametrize(("first", "then"), [(5, 0), (0, 5)])
    async def test_no_second_segment_of_a_choice_while_one_is_open(self, world: World, first: int, then: int) -> None:
        # Both would sign receipts, and ones that overlap are a fault; lanes do not keep them apart.
        customer, other = Customer(), Customer(lane=8)
        offer = (await world.node.offers.current()).offer
        submission = await customer.submission(world.node)
        voucher, voucher_signature = other.voucher(10**8)
        elsewhere = replace(submission, lane=8, voucher=voucher, voucher_signature=voucher_signature)

        def at(begun: JobSubmission, output_from: int) -> JobSubmission:
            prefix = tuple(range(1, output_from + 1))
            return replace(begun, assignments=(customer.assign(begun.request, offer, prefix),))

        await admitted(world, at(submission, first))
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(at(elsewhere, then))
        assert (caught.value.status, caught.value.code) == (409, "choice_open")
        assert len(world.node.ledger.jobs.open_segments()) == 1
        await world.close()

    async def test_another_choice_from_0_alone_does_not_get_its_prompt_for_free(self, world: World) -> None:
        customer = Customer()
        offer = (await world.node.offers.current()).offer
        submission = await customer.submission(world.node, n=2)
        item = customer.assign(submission.request, offer, choice=1, segment=1)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(replace(submission, assignments=(item,)))
        assert (caught.value.status, caught.value.code) == (409, "prompt_unpaid")
        paying = customer.assign(submission.request, offer, (1, 2, 3), choice=0)
        await admitted(world, replace(submission, assignments=(paying, item)))
        await world.close()

    @pytest.mark.parametrize("field", ["model_id", "profile_id"])
    async def test_an_offer_of_what_was_served_before_is_no_offer(self, world: World, field: str) -> None:
        # Its receipt would name another model or profile than its offer.
        customer = Customer()
        current = (await world.node.offers.current()).offer
        before = Bytes32(keccak(b"before"))
        old = replace(current, model_id=before) if field == "model_id" else replace(current, profile_id=before)
        digest = old.digest(world.node.domain)
        await world.node.ledger.money.record_offer(digest, old, NODE_KEY.sign(digest))
        submission = await customer.submission(world.node)
        item = customer.assign(submission.request, old)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(replace(submission, assignments=(item,)))
        assert caught.value.code == "offer_expired"
        await world.close()


class TestClosing:
    async def test_after_a_crash_no_chunk_is_left_out_of_the_middle(self, world: World) -> None:
        # What is due fell between two chunks, as another stream of the channel closed for less than it had prepaid.
        customer = Customer()
        job = await admitted(world, await customer.submission(world.node, cumulative=400))
        (segment,) = job.segments
        for n, due in enumerate((300, 500, 350, 600)):
            ids = tuple(range(10 * n, 10 * n + 4))
            chunk = Chunk(
                Bytes32(segment.key.job_id), 0, 0, NODE_KEY.address, 0, 4 * n + 4, Bytes32(keccak(bytes([n]))), due
            )
            await world.node.ledger.jobs.record_chunk(ChunkRecord(chunk, bytes(64), ids, (1, 2, 3, 4)))
        (record,) = await close_open_segments(world.node.server._work, world.node.book)
        assert list(record.output_ids) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
        assert record.receipt.output_to == 12
        await world.close()

    async def test_after_a_crash_the_last_chunk_is_not_billed_however_much_was_promised(self, world: World) -> None:
        customer = Customer()
        job = await admitted(world, await customer.submission(world.node, cumulative=10**6))
        (segment,) = job.segments
        for n in range(2):
            root = Bytes32(keccak(bytes([n])))
            chunk = Chunk(Bytes32(segment.key.job_id), 0, 0, NODE_KEY.address, 0, 4 * n + 4, root, 300 + n)
            await world.node.ledger.jobs.record_chunk(ChunkRecord(chunk, bytes(64), (1, 2, 3, 4), (1, 2, 3, 4)))
        (record,) = await close_open_segments(world.node.server._work, world.node.book)
        assert record.receipt.output_to == 4
        await world.close()

    async def test_tokens_that_were_cut_off_on_their_way_out_are_not_billed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = world.node.ledger.jobs
        write, reached, calls = jobs.record_chunk, asyncio.Event(), []

        async def stuck(record: ChunkRecord) -> None:
            calls.append(record)
            if len(calls) == 2:
                reached.set()
                await asyncio.Event().wait()
            await write(record)

        monkeypatch.setattr(jobs, "record_chunk", stuck)
        customer = Customer()
        params = customer.params(max_tokens=24, min_tokens=24)
        running = world.node.server.start(
            await admitted(world, await customer.submission(world.node, stream=True, params=params))
        )
        frames: list[Frame] = []

        async def read() -> None:
            async for frame in running.frames():
                frames.append(frame)
                running.delivered(frame)

        reading = asyncio.create_task(read())
        await asyncio.wait_for(reached.wait(), 5)
        running.stop(FinishReason.MOVED)
        await reading
        receipt = frames[-1].receipt
        assert receipt is not None
        assert len(calls[1].ids) == 4
        assert receipt.receipt.output_to == sum(len(frame.tokens) for frame in frames) < 8
        await world.close()

    async def test_no_chunk_is_signed_before_the_one_ahead_of_it_has_left(self, tmp_path: Path) -> None:
        # Recovery bills all chunks but the last: a node must not die with two of them in its own memory.
        world = await open_world(tmp_path, chunk_tokens=4, voucher_wait_seconds=0.3)
        customer = Customer()
        submission = await customer.submission(world.node, stream=True, cumulative=10**6)
        job = await admitted(world, submission)
        running = world.node.server.start(job)
        frames = [frame async for frame in running.frames()]
        receipt = frames[-1].receipt
        assert receipt is not None
        assert len(world.node.ledger.jobs.chunks(job.segments[0].key)) == 1
        # Its reader took nothing in time, so it pays for nothing.
        assert isinstance(frames[-1].error, UpstreamTimeout)
        assert (receipt.receipt.finish_reason, receipt.receipt.output_to) == (FinishReason.CANCELLED, 0)
        await world.close()
