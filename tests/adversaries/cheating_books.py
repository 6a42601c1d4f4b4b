"""The real node with one lie in its books: what it bills, commits or shows. Its engine is true.

Each function takes an honest node whose loops stand still and gives it back with one part exchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from retally.errors import NodeUnavailable
from retally.protocol.merkle import output_root
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import AnswerBundle, SignedAnswerRequest
from retally_node.admission import AdmittedJob
from retally_node.answer_audit import Auditor
from retally_node.node import Node
from retally_node.records import ReceiptRecord
from retally_node.room import ServingRoom
from retally_node.segment import SegmentRun, SegmentWork, write_receipt
from retally_node.serve_job import JobServer, RunningJob
from retally_node.settlement import CollectPlan, Settlement

#: Prompt tokens that nobody wrote.
EXTRA = 8


def resigned(work: SegmentWork, record: ReceiptRecord, **changes: Any) -> ReceiptRecord:
    """The same receipt with other statements, under the node's signature."""
    receipt = replace(record.receipt, **changes)
    digest = receipt.digest(work.domain)
    return replace(record, receipt=receipt, digest=digest, signature=work.key.sign(digest))


class LyingRun(SegmentRun):
    """A segment that closes with another receipt than the true one."""

    def kept(self, record: ReceiptRecord) -> ReceiptRecord:
        """What goes into the books, and under a commit."""
        return record

    def shown(self, record: ReceiptRecord, kept: ReceiptRecord) -> ReceiptRecord:
        """What the payer gets: by default what the books hold."""
        return kept

    async def _close(self, reason: FinishReason, count: int, cached_tokens: int) -> ReceiptRecord:
        fee = self._fee(count, cached_tokens)
        true = write_receipt(
            self._work,
            self._job.record,
            self._segment,
            cum_from=self._job.channel.last_cum,
            fee=fee,
            ids=self._ids[:count],
            quantised=self._quantised[:count],
            cached_tokens=self._billable_cached(cached_tokens),
            reason=reason,
        )
        kept = self.kept(true)
        self._job.channel.last_cum += fee
        del self._job.channel.open[self._segment.key]
        await self._work.ledger.jobs.close(kept, self._job.channel)
        return self.shown(true, kept)


class InflatedRun(LyingRun):
    """Bills prompt tokens that its own root does not count."""

    def kept(self, record: ReceiptRecord) -> ReceiptRecord:
        return resigned(self._work, record, prompt_tokens=record.receipt.prompt_tokens + EXTRA)

    def _fee(self, count: int, cached_tokens: int) -> int:
        more = EXTRA * self._job.offer.prices.price_in // 1_000_000
        return super()._fee(count, cached_tokens) + (more if count else 0)


class SwappingRun(LyingRun):
    """Gives the payer the true receipt and keeps one of another answer to the same job for the commit."""

    def kept(self, record: ReceiptRecord) -> ReceiptRecord:
        if not record.output_ids:
            return record
        ids = [*record.output_ids[:-1], record.output_ids[-1] ^ 1]
        root = output_root(record.receipt.output_from, ids, record.quantised)
        return replace(resigned(self._work, record, output_root=root), output_ids=ids)

    def shown(self, record: ReceiptRecord, kept: ReceiptRecord) -> ReceiptRecord:
        return record


class PhantomRun(LyingRun):
    """Bills each answer a second time, as a choice that nobody asked for."""

    async def _close(self, reason: FinishReason, count: int, cached_tokens: int) -> ReceiptRecord:
        record = await super()._close(reason, count, cached_tokens)
        channel = self._job.channel
        fee = record.receipt.output_tokens * self._job.offer.prices.price_out // 1_000_000
        money = {"cum_from": channel.last_cum, "cum_to": channel.last_cum + fee}
        phantom = resigned(self._work, record, choice=record.receipt.choice + 1, cached_tokens=0, **money)
        channel.last_cum += fee
        await self._work.ledger.jobs.close(phantom, channel)
        return record


class LyingJob(RunningJob):
    """A job whose choices are lying runs."""

    def __init__(self, job: AdmittedJob, work: SegmentWork, room: ServingRoom, run: type[SegmentRun]) -> None:
        none = replace(job, segments=())
        super().__init__(none, work, room)
        self.job = job
        self._runs = {each.key.choice: run(job, each, work, self._frames.put_nowait) for each in job.segments}
        self._tasks = [asyncio.create_task(self._run(each)) for each in self._runs.values()]


class LyingServer(JobServer):
    """Serves every job by lying runs."""

    def __init__(self, work: SegmentWork, room: ServingRoom, run: type[SegmentRun]) -> None:
        super().__init__(work, room)
        self._run = run

    def start(self, job: AdmittedJob) -> RunningJob:
        running = LyingJob(job, self._work, self.room, self._run)
        self._running.add(running)
        watch = asyncio.create_task(running.closed())
        self._watches.add(watch)
        watch.add_done_callback(lambda done: self._forget(running, done))
        return running


class OmittingSettlement(Settlement):
    """Collects for all receipts and puts every second one under no root: no audit could be shown it."""

    async def _send(self, plan: CollectPlan) -> None:
        await super()._send(CollectPlan(plan.items, plan.receipts[::2]))


class SilentAuditor(Auditor):
    """Shows nothing to anybody."""

    async def answer(self, signed: SignedAnswerRequest) -> AnswerBundle:
        raise NodeUnavailable("not today")


async def _rest() -> None:
    """A loop that does nothing."""


def _with_run(node: Node, run: type[SegmentRun]) -> Node:
    server = LyingServer(node.server._work, node.server.room, run)
    return replace(node, server=server)


def inflated_counts(node: Node) -> Node:
    """More prompt tokens on each receipt than its tree holds."""
    return _with_run(node, InflatedRun)


def swapped_receipts(node: Node) -> Node:
    """Another receipt under the commit than the payer holds."""
    return _with_run(node, SwappingRun)


def phantom_choice(node: Node) -> Node:
    """Each answer billed twice."""
    return _with_run(node, PhantomRun)


def padded_prompt(node: Node) -> Node:
    """Prompt ids that the pinned template does not give, billed like the others."""
    admission = copy(node.admission)
    forms = copy(admission._forms)
    honest = forms.render

    def render(prompt: Mapping[str, Any], template_date: str) -> Sequence[int]:
        ids = list(honest(prompt, template_date))
        return [ids[0], *ids[1 : 1 + EXTRA], *ids[1:]]

    forms.render = render  # type: ignore[method-assign]  # the lie
    admission._forms = forms
    return replace(node, admission=admission)


def omitted_receipts(node: Node) -> Node:
    """Money collected for receipts that lie under no root."""
    settlement = object.__new__(OmittingSettlement)
    settlement.__dict__.update(vars(node.settlement))
    node.loops.add("settlement", settlement.step)
    return replace(node, settlement=settlement)


def silent(node: Node) -> Node:
    """No answer to verifiers, and none on chain."""
    auditor = object.__new__(SilentAuditor)
    auditor.__dict__.update(vars(node.auditor))
    node.loops.add("challenges", _rest)
    return replace(node, auditor=auditor)
