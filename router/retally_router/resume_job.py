"""Shows an answer that a node made for a router that died: the request is repeated, the job is not, nor its payment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from retally.errors import Conflict, RetallyError
from retally.protocol.eip712 import Domain
from retally_router.begun_job import BegunJob
from retally_router.check_frames import ENDED, ChoiceState, Placed, read_receipts
from retally_router.directory import Listed
from retally_router.ports import NodeApi
from retally_router.serve_job import ServeJob


class ResumeJob:
    """Asks the node what became of a job."""

    def __init__(self, api: NodeApi, domain: Domain, find: Callable[[str], Listed | None]) -> None:
        self._api = api
        self._domain = domain
        self._find = find

    async def find(self, begun: BegunJob) -> Placed | None:
        """The job, if its node has the whole answer; None if it must be made anew. Raises while neither is known."""
        record, placed = begun.record, self._located(begun.record.placed(self._domain))
        try:
            shown = await self._api.receipts(placed.node.endpoint, record.job_id)
            receipts = [leaf.receipt for leaf in read_receipts(shown, placed)]
        except RetallyError as error:
            if error.status == 404:
                return None
            raise _unknown(record.node, error.message) from error
        reasons = {(receipt.choice, receipt.output_from): receipt.finish_reason for receipt in receipts}
        wanted = [(choice, start) for choice, _, start in record.segments]
        if any(segment not in reasons for segment in wanted):
            raise _unknown(record.node, "it has not closed the job yet")
        return placed if all(reasons[segment] in ENDED for segment in wanted) else None

    def _located(self, placed: Placed) -> Placed:
        listed = self._find(placed.node.node)
        if listed is None:
            return placed
        if listed.offer_hash == placed.node.offer_hash:
            return replace(placed, node=listed)
        return replace(placed, node=replace(placed.node, endpoint=listed.endpoint))


def _unknown(node: str, why: str) -> Conflict:
    message = f"the router that took this request ended, and node {node} does not say yet what it did: {why}"
    hint = "retry in a second with the same Idempotency-Key: for five minutes nothing is paid twice"
    return Conflict(message, code="idempotency_in_flight", hint=hint)


@dataclass(slots=True)
class ResumedJob(ServeJob):
    """A job that is shown again: nothing is held or paid for it here, its dead router's channel is settled apart."""

    shown: tuple[Placed, BegunJob] = field(kw_only=True)

    async def start(self) -> None:
        """Has its node begin; raises what it said."""
        placed, begun = self.shown
        self.offered, self.node, self.began_at = [placed.node], placed.node.node, time.monotonic()
        self.choices = [ChoiceState(choice, segment) for choice, segment, _ in begun.record.segments]
        self.placement = await self.means.placer.show(self.job, placed, begun.record, self.choices)

    async def finish(self) -> None:
        """Closes the connection."""
        placement, self.placement = self.placement, None
        if placement is not None:
            placement.stream.close()
        self.attempts.end()
