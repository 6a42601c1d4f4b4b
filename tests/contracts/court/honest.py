"""Honest transcripts: real nodes with toy engines serve random jobs and settle them on a real chain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from retally.chain.deployment import Deployment
from retally.chain.escrow import CollectItem
from retally.chain.events import Collected
from retally.errors import RetallyError
from retally.protocol.case import unpack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally.protocol.job import Assignment, JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import Chunk, FinishReason
from retally.protocol.voucher import ChannelId
from retally.protocol.wire import JobOptions, JobSubmission, SubmittedAssignment
from retally_node.admission import AdmittedJob
from retally_node.bootstrap import assemble
from retally_node.node import Node, Served
from retally_node.outside import Outside
from retally_node.settlement import MinedCommit
from tests.contracts.court.transcripts import MODEL, PROFILE, Job, Tree
from tests.contracts.court.world import Commit, World, record_of
from tests.fakes import FakeEngine
from tests.fakes_node import Customer, node_settings, tiny_format
from tests.fakes_node_ports import (
    FakeAudits,
    FakeCases,
    FakeClock,
    FakeCollect,
    FakeCourt,
    FakeDefenceCourt,
    FakeEvidence,
    FakePayers,
    FakeReserve,
    FakeSilence,
)

CONTEXT = 256


class Ending(StrEnum):
    """How a job goes."""

    WHOLE = "whole"
    CANCELLED = "cancelled"
    MOVED = "moved"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that customers and nodes do."""

    payer: int = 0
    lane: int = 0
    choices: int = 1
    prompt: int = 5
    max_tokens: int = 12
    cached: int = 0
    ending: Ending = Ending.WHOLE
    after: int = 3
    tight: int | None = None
    goes_on: bool = False
    twice: bool = False
    elsewhere: bool = False
    settles: bool = False


@dataclass
class Transcript:
    """All that honest parties have signed and committed."""

    jobs: list[Job] = field(default_factory=list)
    chunks: list[tuple[Chunk, tuple[int, ...]]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)


class Buyer(Customer):
    """A customer of several nodes, by its own key, that is its own router."""

    def assign(
        self, request: JobRequest, offer: Offer, prefix: Sequence[int] = (), **changes: Any
    ) -> SubmittedAssignment:
        """An assignment to the node of an offer; each lane is a replica of its own."""
        return super().assign(request, offer, prefix, **{"node": offer.node, "replica": self.lane, **changes})

    def channel_at(self, node: Address) -> ChannelId:
        """The channel that pays a node."""
        return ChannelId(self.payer, self.key.address, node, self.lane)


class EscrowCollect(FakeCollect):
    """Settlement's port to the real Escrow."""

    def __init__(self, world: World, node: Address, owner: str) -> None:
        super().__init__(node=node)
        self.world = world
        self.owner = owner

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        packed = b"".join(item.pack() for item in items)
        escrow = self.world.ledger.escrow.functions
        mined = self.world.ledger.send(escrow.collect(self.node, packed, root), self.owner)
        event = mined.event("Collected")
        ranges = bytes(event["ranges"])
        amounts = event["paid"], event["auditShare"], event["held"]
        collected = Collected(record_of(event), tuple(unpack_ranges(ranges)), ranges, *amounts)
        self.mined.append(MinedCommit(collected, mined.block))
        self.block = mined.block

    async def collected(self, channels: Sequence[ChannelId]) -> list[int]:
        view = self.world.ledger.escrow.functions.channel
        return [int(view(c.payer, c.signer, c.node, c.lane).call()) for c in channels]


class HonestNode:
    """A real node around a toy engine, whose books outlive it."""

    def __init__(self, world: World, number: int, folder: Path) -> None:
        self.world = world
        self.key = world.nodes[number]
        self.owner = world.owners[number]
        self.folder = folder
        self.chat_format = tiny_format(folder / "model")
        self.collect = EscrowCollect(world, self.key.address, self.owner)
        self.node: Node

    async def open(self) -> None:
        """Start, and close what a crash left open."""
        domain = self.world.ledger.domain
        self.engine = FakeEngine(vocab_size=self.chat_format.vocab_size)
        clock, payers = FakeClock(self.world.ledger.now()), FakePayers()
        payers.standing_now = replace(payers.standing_now, reserved=10**9, expiry=clock.now() + 30 * 86_400)
        settings = node_settings(
            self.folder, key="0x" + self.key.secret.hex(), chunk_tokens=4, voucher_wait_seconds=0.02,
            credit_per_payer=0, max_context=CONTEXT,
        )  # fmt: skip
        served = Served("retally/tiny", MODEL, PROFILE, CONTEXT, Address(self.owner))
        outside = Outside(
            clock, payers, self.collect, FakeAudits(), FakeReserve(), FakeSilence(), FakeCourt(),
            FakeDefenceCourt(), FakeCases(), FakeEvidence(), 1,
        )  # fmt: skip
        deployment = Deployment(domain.chain_id, 1, {"Escrow": domain.escrow})
        self.node = await assemble(settings, self.key, deployment, served, self.engine, self.chat_format, outside)

    async def crash(self) -> None:
        """Lose everything but the books."""
        self.node.ledger.close()
        await self.open()

    async def close(self) -> None:
        """Stop properly."""
        await self.node.server.shutdown()
        self.node.ledger.close()


async def submit(at: HonestNode, buyer: Buyer, step: Step, begun: JobSubmission | None = None) -> JobSubmission:
    """A submission for a step, or the same request as before to this node."""
    offer = (await at.node.offers.current()).offer
    state = at.node.channel_state(buyer.channel_at(at.key.address))
    room = 10**6 if step.tight is None else state.last_cum_to + 2 * step.prompt * step.choices + step.tight
    voucher, signature = buyer.voucher(max(room, state.best), node=at.key.address)
    if begun is None:
        params = buyer.params(max_tokens=step.max_tokens, endpoint="text")
        prices = {"max_price_in": 2_000_000, "max_price_cached": 1_000_000, "max_price_out": 6_000_000}
        deadline = at.world.ledger.now() + 3600
        prompt = {"prompt": "x" * step.prompt}
        request = buyer.request(prompt, params, n=step.choices, model_id=MODEL, deadline=deadline, **prices)
    else:
        prompt, params, request = dict(begun.prompt), begun.params, begun.request
    return JobSubmission(
        request=request,
        request_signature=buyer.key.sign(request.digest(buyer.domain)),
        prompt=prompt,
        params=params,
        assignments=tuple(buyer.assign(request, offer, choice=choice) for choice in range(request.n)),
        lane=buyer.lane,
        voucher=voucher,
        voucher_signature=signature,
        stream=True,
        options=JobOptions(),
    )


async def serve(at: HonestNode, submission: JobSubmission, step: Step) -> None:
    """Let a node serve a submission to its end, whatever that is; a refusal is an end too."""
    try:
        job = await at.node.admission.admit(submission)
    except RetallyError:
        return
    if not isinstance(job, AdmittedJob):
        return
    at.engine.cached_tokens = step.cached
    at.engine.fails_after = at.engine.produced + step.after if step.ending is Ending.MOVED else None
    running = at.node.server.start(job)
    seen = 0
    async for frame in running.frames():
        running.delivered(frame)
        seen += 1
        if seen >= step.after and step.ending is Ending.CANCELLED:
            running.stop(FinishReason.CANCELLED)
        if seen >= step.after and step.ending is Ending.CRASHED:
            await at.crash()
            return
    await running.closed()
    at.engine.fails_after = None


async def go_on(at: HonestNode, buyer: Buyer, submission: JobSubmission, step: Step) -> None:
    """Continue what ended early, at the same node."""
    jobs = at.node.ledger.jobs
    offer = (await at.node.offers.current()).offer
    for record in jobs.receipts(submission.request.digest(buyer.domain)):
        if record.receipt.finish_reason in (FinishReason.STOP, FinishReason.LENGTH) or not record.output_ids:
            continue
        item = buyer.assign(
            submission.request, offer, tuple(record.output_ids), choice=record.receipt.choice, segment=1
        )
        await serve(at, replace(submission, assignments=(item,)), replace(step, ending=Ending.WHOLE))


async def play(world: World, steps: Sequence[Step], folder: Path) -> Transcript:
    """Honest parties do what the steps say; return all that they signed and committed."""
    nodes = [HonestNode(world, number, folder / str(number)) for number in range(2)]
    for node in nodes:
        await node.open()
    buyers: dict[tuple[int, int], Buyer] = {}
    transcript = Transcript()
    for step in steps:
        payer: SigningKey = (world.payer, world.friend)[step.payer]
        buyer = buyers.setdefault(
            (step.payer, step.lane), Buyer(payer, payer.address, lane=step.lane, domain=world.ledger.domain)
        )
        first = await submit(nodes[0], buyer, step, None)
        runs = [serve(nodes[0], first, step)]
        if step.elsewhere:
            runs.append(serve(nodes[1], await submit(nodes[1], buyer, step, first), step))
        if step.twice:
            runs.append(serve(nodes[0], await submit(nodes[0], buyer, step, first), replace(step, ending=Ending.WHOLE)))
        await asyncio.gather(*runs)
        transcript.assignments += [item.assignment for item in first.assignments]
        if step.goes_on:
            await go_on(nodes[0], buyer, first, step)
        if step.settles:
            for node in nodes:
                await node.node.settlement.settle_now()
    for node in nodes:
        await node.node.settlement.settle_now()
        _collect(world, node, transcript)
        await node.close()
    return transcript


def _collect(world: World, at: HonestNode, transcript: Transcript) -> None:
    """Read a node's books."""
    ledger, domain = at.node.ledger, world.ledger.domain
    jobs: dict[bytes, Job] = {}
    for row in ledger.jobs._database.read("SELECT DISTINCT job_id FROM receipts"):
        kept = ledger.jobs.job(row["job_id"])
        segments = {segment.key: segment for segment in ledger.jobs.segments(row["job_id"])}
        for record in ledger.jobs.receipts(row["job_id"]):
            offer = ledger.money.offer(record.receipt.offer_hash)
            assert kept is not None
            assert offer is not None
            prefix = tuple(segments[record.key].prefix_ids)
            job = Job(
                domain, at.key, kept.request, kept.signature, offer[0], dict(kept.prompt), kept.params, kept.prompt_ids,
                prefix, tuple(record.output_ids), tuple(record.quantised), record.receipt,
            )  # fmt: skip
            assert job.signature == record.signature
            jobs[record.digest] = job
            ids: tuple[int, ...] = ()
            for chunk in ledger.jobs.chunks(record.key):
                ids = (*ids, *chunk.ids)
                transcript.chunks.append((chunk.chunk, ids))
    transcript.jobs += jobs.values()
    for mined in at.collect.mined:
        commit = mined.collected.commit
        tree = Tree(domain, tuple(jobs[digest] for digest in ledger.commits.leaves(commit.receipts_root)))
        assert tree.root == commit.receipts_root
        transcript.commits.append(Commit(commit, mined.collected.packed_ranges, tree))
