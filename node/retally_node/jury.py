"""Jury duty: weigh a case once, commit the vote, show it when the court says so."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Protocol

from retally.chain.court import vote_hash
from retally.crash_points import crash_point
from retally.errors import ChainUnreachable, TransactionFailed
from retally.protocol.encoding import Address, Bytes32
from retally_node.ledger import Ledger, Vote
from retally_node.ports import Clock
from retally_node.read_evidence import EvidenceSource, read_evidence
from retally_node.weigh_case import INCONCLUSIVE, CaseFacts, CaseScale, Opinion

log = logging.getLogger(__name__)

#: So long before the end of the commit phase a juror stops waiting for a file that nobody serves.
LAST_CALL_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True)
class Duty:
    """A round in which this node's owner sits."""

    case_id: int
    round: int
    seat: int
    commit_end: int
    committed: Bytes32 | None
    revealed: bool
    may_reveal: bool


class CourtView(Protocol):
    """What a juror needs of the Court."""

    async def duties(self) -> list[Duty]:
        """The rounds now voting with this owner on the jury."""

    async def facts(self, case_id: int) -> CaseFacts:
        """What the chain says about a case."""

    async def commit_vote(self, duty: Duty, hash_: bytes) -> None:
        """Commit a vote."""

    async def reveal_vote(self, duty: Duty, vote: Vote) -> None:
        """Show a vote."""


class Jury:
    """The juror's loop; a restart goes on where the books say."""

    def __init__(
        self, ledger: Ledger, court: CourtView, source: EvidenceSource, scale: CaseScale, owner: Address, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._court = court
        self._source = source
        self._scale = scale
        self._owner = owner
        self._clock = clock

    async def step(self) -> None:
        """One round of the loop."""
        failed: Exception | None = None
        for duty in await self._court.duties():
            try:
                if not duty.revealed:
                    await self._serve(duty)
            except Exception as error:  # noqa: BLE001  see below
                # A duty missed is a stake slashed: one that fails, however, must not keep the others waiting.
                log.error("case %d round %d: %s", duty.case_id, duty.round, error)
                failed = error
        if failed is not None:
            raise failed

    async def _serve(self, duty: Duty) -> None:
        vote = self._ledger.votes.vote(duty.case_id, duty.round)
        if vote is None:
            if duty.committed is not None or self._clock.now() > duty.commit_end:
                # Another node of the same owner votes, or it is too late.
                return
            vote = await self._decide(duty)
            if vote is None:
                return
        if duty.committed is None:
            await self._commit(duty, vote)
        elif duty.may_reveal and duty.committed == self._hash(vote):
            await self._reveal(duty, vote)

    async def _decide(self, duty: Duty) -> Vote | None:
        """Weigh the case and write the vote down; None while the file may still turn up."""
        try:
            opinion = await self._opinion(await self._court.facts(duty.case_id))
        except ChainUnreachable:
            # No vote could be sent now: there is time to think until one can.
            raise
        except Exception as error:  # whatever a challenger's file provokes: a juror that never votes is slashed
            if self._clock.now() < duty.commit_end - LAST_CALL_SECONDS:
                log.warning("case %d: no opinion yet", duty.case_id, exc_info=error)
                return None
            opinion = INCONCLUSIVE
        log.info("case %d round %d: voting %s", duty.case_id, duty.round, opinion.verdict.name.lower())
        vote = Vote(duty.case_id, duty.round, int(opinion.verdict), opinion.log_e, secrets.token_bytes(32))
        await self._ledger.votes.record_vote(vote)
        return vote

    async def _opinion(self, facts: CaseFacts) -> Opinion:
        file = await read_evidence(self._source, facts)
        return INCONCLUSIVE if file is None else await self._scale.weigh(facts, file)

    async def _commit(self, duty: Duty, vote: Vote) -> None:
        if self._clock.now() > duty.commit_end:
            await self._ledger.votes.set_vote_state(vote, "missed")
            return
        crash_point("before:send:vote")
        try:
            await self._court.commit_vote(duty, self._hash(vote))
        except TransactionFailed as error:
            if error.error_name != "CourtAlreadyCommitted":
                raise
        crash_point("after:send:vote")
        await self._ledger.votes.set_vote_state(vote, "committed")

    async def _reveal(self, duty: Duty, vote: Vote) -> None:
        crash_point("before:send:reveal")
        try:
            await self._court.reveal_vote(duty, vote)
        except TransactionFailed as error:
            if error.error_name != "CourtAlreadyRevealed":
                raise
        crash_point("after:send:reveal")
        await self._ledger.votes.set_vote_state(vote, "revealed")

    def _hash(self, vote: Vote) -> bytes:
        return vote_hash(vote.case_id, vote.round, self._owner, vote.verdict, vote.log_e, vote.salt)
