"""Puts a job on a node, or on a second one beside it while the first is late; learns from what each did."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from retally.errors import CapExceeded, NodeUnavailable, RetallyError, UpstreamTimeout
from retally.protocol.pricing import PER
from retally_router.check_frames import ChoiceState
from retally_router.directory import Listed
from retally_router.hedge import Race, late_after
from retally_router.node_time import NodeTime
from retally_router.observed import Expectation, Visit
from retally_router.placement import Job, Placement
from retally_router.refusals import CHEATS, OWN, SHORT, is_final

if TYPE_CHECKING:
    from retally_router.serve_job import Means

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A job on one node, its first frame in hand."""

    placement: Placement
    at: float

    @property
    def node(self) -> str:
        """Where."""
        return self.placement.placed.node.node


@dataclass(slots=True)
class Attempts:
    """One job's attempts: it is at one node, or at two while a late one is raced."""

    means: Means
    job: Job
    expected: Mapping[str, Expectation]
    visits: dict[str, Visit] = field(default_factory=dict)
    #: The nodes that have the job or failed it, in lower case.
    tried: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    hedges: int = 0
    #: What left nodes may still bill.
    unsettled: int = 0
    #: Nodes that a late one should have been raced with, for which money was short at the first look.
    unplaced: list[Listed] = field(default_factory=list)

    async def begin(
        self,
        ends: float,
        node: Listed,
        choices: Sequence[ChoiceState],
        remaining_fee: int,
        *,
        is_last: bool,
        spare: Callable[[], Listed | None] | None = None,
    ) -> Begun:
        """The job at that node, or at the spare one if it was quicker; raises what went wrong."""
        # All nodes share the time of one: behind several there may be one stuck engine. Half of it is left for others.
        left = ends - time.monotonic()
        seconds = left if is_last else left / 2
        try:
            async with NodeTime(seconds) as limit:
                begun = await self._race(node, choices, remaining_fee, spare, limit)
        except TimeoutError as error:
            # Where the store hangs, say in somebody else's opening of the channel, the node is not to blame.
            await self.means.log.check_answers()
            late = UpstreamTimeout(f"the node began no answer within {seconds:.3g} s")
            for name in list(self.visits):
                self.refused(name, late)
            raise late from error
        for name in [name for name in self.visits if name != begun.node]:
            # It took at least so long: learned as if its first token came now.
            visit = self.visits.pop(name)
            visit.first_token()
            visit.end()
            # Given up for being late, not for failing: after all others it may go on where the winner breaks off.
            self.tried.discard(name.lower())
            self.late.add(name.lower())
        return begun

    async def _race(
        self,
        node: Listed,
        choices: Sequence[ChoiceState],
        remaining_fee: int,
        spare: Callable[[], Listed | None] | None,
        limit: NodeTime,
    ) -> Begun:
        first, expected = self._begin(node, choices, remaining_fee, limit), self.expected.get(node.node)
        if spare is None or expected is None or len(choices) > 1:
            return await first

        def second() -> Coroutine[Any, Any, Begun] | None:
            other = spare()
            if other is None:
                return None
            self.hedges += 1
            log.info("job_hedged", late=node.node, spare=other.node, job=self.job.job_id.hex())
            return self._begin_spare(other, choices, remaining_fee, limit)

        race = Race[Begun](lambda begun: self.abandon(begun.placement))
        return await race.run(first, second, late_after(expected.prediction.ttft_seconds))

    async def _begin(
        self,
        node: Listed,
        choices: Sequence[ChoiceState],
        remaining_fee: int,
        limit: NodeTime,
        *,
        is_spare: bool = False,
    ) -> Begun:
        at, expected = time.monotonic(), self.expected.get(node.node)
        self.tried.add(node.node.lower())
        self.visits[node.node] = self.means.watch.visit(node.node, expected, streams=len(choices))
        try:
            place = self.means.placer.place
            return Begun(await place(self.job, node, choices, remaining_fee, limit, is_spare=is_spare), at)
        except RetallyError as error:
            self.refused(node.node, error)
            raise

    async def _begin_spare(
        self, node: Listed, choices: Sequence[ChoiceState], remaining_fee: int, limit: NodeTime
    ) -> Begun:
        try:
            return await self._begin(node, choices, remaining_fee, limit, is_spare=True)
        except OWN as error:
            # Nobody was asked twice for the money: that is no word for a client. It may have its turn later.
            self.hedges -= 1
            self.means.hedges.give_back()
            self.tried.discard(node.node.lower())
            self.unplaced.append(node)
            raise NodeUnavailable(f"{node.node} was not raced with another: {error.message}") from error

    def refused(self, node: str, error: RetallyError) -> None:
        """The node refused the job, or left it; or its payer has too little for that node, or the chain is away."""
        event = "job_not_placed" if isinstance(error, OWN) else "node_failed"
        log.info(event, node=node, job=self.job.job_id.hex(), code=error.code, error=error.message)
        if not isinstance(error, OWN):
            self.means.metrics.node_failures.labels(node=node, code=error.code).inc()
        if isinstance(error, CHEATS):
            log.error("node_cheated", node=node, job=self.job.job_id.hex(), what=error.message)
        visit = self.visits.pop(node, None)
        if visit is None:
            return
        if isinstance(error, CHEATS):
            visit.cheated(error.message)
        elif is_failure(error):
            visit.failed()
        visit.end()

    def abandon(self, placement: Placement) -> None:
        """Leaves a node for good: the connection breaks, its receipts are fetched later."""
        placement.stream.close()
        account, record = placement.account, placement.record
        if account is not None:
            keys = [(self.job.job_id, choice, segment) for choice, segment, _ in record.segments]
            self.unsettled += sum(account.open[key].upper for key in keys if key in account.open)
            self.means.settle.later(placement.placed, account, record)

    def end(self) -> None:
        """Nothing of the job runs any more."""
        for visit in self.visits.values():
            visit.end()


def is_failure(error: RetallyError) -> bool:
    """Whether the error speaks against the node."""
    return not is_final(error) and error.status not in (402, 409)


def affordable(job: Job, refusal: RetallyError, candidates: list[Listed]) -> list[Listed]:
    """Who may take a job that one node did not: where money was short, those that can't bill more than is left."""
    if isinstance(refusal, SHORT):
        left = refusal.left if isinstance(refusal, CapExceeded) else refusal.available
        return [node for node in candidates if most_bill(job, node) <= left]
    return [] if is_final(refusal) else candidates


def most_bill(job: Job, node: Listed) -> int:
    """The most that a node may bill for a job that begins there."""
    offer, output = node.offer, job.ask.n * job.request.max_output
    return (job.prompt_tokens_at_most * offer.price_in + output * offer.price_out) // PER


def pause_seconds(tries: int, draw: float) -> float:
    """How long to wait before the next node, `draw` in [0, 1): longer each time, so that routers don't move in step."""
    return draw * min(0.25, 0.01 * (1 << (tries - 1)))
