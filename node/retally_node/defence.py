"""An owner's defence: weigh each case against it as jurors do, and appeal what they got wrong, within bounds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from retally.cli.amounts import show_amount
from retally.errors import PaymentRequired, RetallyError, TransactionFailed
from retally.protocol.case import Shown, VerdictKind
from retally.protocol.encoding import Address, Bytes32
from retally_node.ports import Clock
from retally_node.weigh_case import INCONCLUSIVE, CaseFacts, Opinion

log = logging.getLogger(__name__)

#: So long before the appeal window ends nobody waits any longer for evidence, or for an engine that is down.
LAST_CALL_SECONDS = 6 * 3600
#: What the Court says to one that comes too late: what is true then is read in the next round.
OVERTAKEN = {
    "CourtWrongStatus": "another appealed first, or the case went on",
    "CourtAppealEnded": "not appealed: the time for it was over before the transaction was mined",
}


@dataclass(frozen=True, slots=True)
class Accusation:
    """A case against this node's owner that is not over, as the chain has it now."""

    case_id: int
    round: int
    #: Of a round that has ended; 0 while none has.
    verdict: int
    #: The last second in which the verdict may be appealed; 0 while a round goes on, and where none may be any more.
    appeal_end: int
    appeals: int
    #: A payer's own job (R-67).
    own_job: bool
    #: When it was opened and what it shows: where the chain takes blocks back its number may become another case's.
    opening: tuple[int, Bytes32]

    @property
    def is_lost(self) -> bool:
        """Whether it costs the owner unless an appeal turns it."""
        return self.verdict == VerdictKind.MISMATCH


@dataclass(frozen=True, slots=True)
class AppealPrice:
    """What an appeal takes and what it may save, in the asset's smallest unit."""

    #: What the next appeal pulls: fee and bond, doubled each time, and two tips.
    cost: int
    #: What earlier appeals of the case for this owner pulled.
    spent: int
    #: The same of all cases that were opened in its epoch.
    spent_in_epoch: int
    #: What a mismatch takes of the owner.
    at_stake: int
    #: What the key that sends holds.
    held: int
    payer: Address


@dataclass(frozen=True, slots=True)
class Means:
    """Whether there is money to appeal with at all, in the asset's smallest unit."""

    payer: Address
    held: int
    first_cost: int


class DefenceCourt(Protocol):
    """What a defence needs of the Court."""

    async def accusations(self) -> list[Accusation]:
        """The cases against this owner that are not over."""

    async def facts(self, case_id: int) -> CaseFacts:
        """What the chain says about a case."""

    async def means(self) -> Means:
        """What the key that sends holds, and what the first appeal of any case takes."""

    async def price(self, case_id: int) -> AppealPrice:
        """What an appeal would take."""

    async def appeal(self, case_id: int, cost: int) -> None:
        """Appeal; raises TransactionFailed where the Court refuses."""

    async def move_on(self, case_id: int, shown: tuple[Shown, ...]) -> None:
        """Take the step that is due, if any."""

    async def withdraw(self) -> int:
        """Take back what the Court owes the key that sends; returns how much."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that appeals may take, bonds included; 0 appeals nothing."""

    per_case: int
    #: Of all cases opened in one epoch of four weeks: whoever opens many empties no key.
    per_epoch: int


class OwnScale(Protocol):
    """What the accused replays with."""

    async def weigh(self, facts: CaseFacts) -> Opinion:
        """What a juror with this node's engine would vote; raises where that can't be found out now."""


@dataclass(slots=True)
class _Stand:
    """What this node holds of a case, and what it last said of it."""

    accusation: Accusation
    opinion: Opinion | None = None
    said: str = ""

    def to_wire(self) -> dict[str, Any]:
        own = "unknown" if self.opinion is None else self.opinion.verdict.name.lower()
        case = self.accusation
        return {"case": case.case_id, "round": case.round, "ownReplay": own, "isLost": case.is_lost, "state": self.said}


class Defence:
    """The accused's loop; what it has done is read from the chain, so that a restart repeats nothing."""

    def __init__(self, court: DefenceCourt, scale: OwnScale, clock: Clock, budget: Budget) -> None:
        self._court = court
        self._scale = scale
        self._clock = clock
        self._budget = budget
        self._stands: dict[int, _Stand] = {}
        self._may_be_owed = True
        self._knows_means = False
        #: Appeals sent since the start.
        self.appeals = 0

    async def step(self) -> None:
        """One round of the loop."""
        if not self._knows_means:
            self._look_at_means(await self._court.means())
        found = {each.case_id: each for each in await self._court.accusations()}
        failed: Exception | None = None
        for each in found.values():
            stand = self._stand_in(each)
            try:
                await self._defend(stand)
            except Exception as error:  # whatever a file provokes: the other cases are defended all the same
                log.debug("case %d", each.case_id, exc_info=error)
                self._say(stand, error.message if isinstance(error, RetallyError) else repr(error))
                failed = error
        await self._settle(found)
        if failed is not None:
            raise failed

    def _stand_in(self, case: Accusation) -> _Stand:
        """What is held of this very case: no opinion of another one that had its number."""
        stand = self._stands.get(case.case_id)
        if stand is None or stand.accusation.opening != case.opening:
            stand = self._stands[case.case_id] = _Stand(case)
        stand.accusation = case
        return stand

    @property
    def open_cases(self) -> list[dict[str, Any]]:
        """The cases against the owner, and where this node stands in each."""
        return [stand.to_wire() for _, stand in sorted(self._stands.items())]

    @property
    def lost_cases(self) -> int:
        """How many cost the owner if nobody appeals in time."""
        return sum(stand.accusation.is_lost for stand in self._stands.values())

    def _look_at_means(self, means: Means) -> None:
        """Say at the start what would be too late to hear in a case."""
        self._knows_means = True
        if self._budget.per_case < means.first_cost:
            most, cost = show_amount(self._budget.per_case), show_amount(means.first_cost)
            log.warning("no verdict will be appealed: appeal_budget is %s, the first appeal takes %s", most, cost)
        elif means.held < means.first_cost:
            log.warning(
                "no verdict can be appealed yet: %s holds %s, the first appeal takes %s (retally node stake --appeals)",
                means.payer,
                show_amount(means.held),
                show_amount(means.first_cost),
            )

    async def _settle(self, found: dict[int, Accusation]) -> None:
        """Forget what is over, and take back the bonds that return."""
        for case_id in [each for each in self._stands if each not in found]:
            del self._stands[case_id]
            self._may_be_owed = True
            log.info("case %d is over", case_id)
        if self._may_be_owed and (returned := await self._court.withdraw()):
            log.info("the court returned %s", show_amount(returned))
        self._may_be_owed = False

    async def _defend(self, stand: _Stand) -> None:
        case = stand.accusation
        if case.own_job:
            self._say(stand, "a payer's own job, which costs less than an appeal")
            return
        opinion = await self._opinion(stand)
        if case.is_lost:
            await self._answer(stand, opinion)
            return
        self._say(stand, f"decided: {VerdictKind(case.verdict).name.lower()}" if case.verdict else "before its jury")
        if case.appeals:
            # Nobody else may have a reason to: a case that stands still keeps the stake locked.
            facts = await self._court.facts(case.case_id)
            await self._court.move_on(case.case_id, facts.shown)

    async def _opinion(self, stand: _Stand) -> Opinion:
        """What this node's own replay says, once for each case: what a file shows never changes."""
        if stand.opinion is None:
            try:
                stand.opinion = await self._scale.weigh(await self._court.facts(stand.accusation.case_id))
            except Exception as error:  # a juror that can't weigh a case votes inconclusive; so does the accused
                if not self._is_last_call(stand.accusation):
                    raise
                log.warning("case %d: no opinion of its own", stand.accusation.case_id, exc_info=error)
                stand.opinion = INCONCLUSIVE
            verdict = stand.opinion.verdict.name.lower()
            log.warning("case %d against this owner: its own replay says %s", stand.accusation.case_id, verdict)
        return stand.opinion

    def _is_last_call(self, case: Accusation) -> bool:
        return case.is_lost and self._clock.now() >= case.appeal_end - LAST_CALL_SECONDS

    async def _answer(self, stand: _Stand, opinion: Opinion) -> None:
        """Appeal a verdict against the owner, unless it is right, too late, or too dear."""
        case = stand.accusation
        if opinion.verdict == VerdictKind.MISMATCH:
            self._say(stand, "not appealed: its own replay is a mismatch too")
        elif case.appeal_end == 0:
            self._say(stand, "lost: no further appeal is possible")
        elif self._clock.now() > case.appeal_end:
            self._say(stand, f"not appealed: the time for it ended at {_moment(case.appeal_end)}")
        else:
            await self._appeal(stand, await self._court.price(case.case_id))

    async def _appeal(self, stand: _Stand, price: AppealPrice) -> None:
        case = stand.accusation
        if refusal := self._refusal(price, case):
            self._say(stand, refusal)
            return
        if price.held < price.cost:
            missing, until = show_amount(price.cost - price.held), _moment(case.appeal_end)
            raise PaymentRequired(
                f"case {case.case_id} is decided against this owner, and {price.payer} holds too little to appeal: "
                f"send it {missing} by {until} (retally node stake --appeals)",
                details={"required": str(price.cost), "available": str(price.held)},
            )
        try:
            await self._court.appeal(case.case_id, price.cost)
        except TransactionFailed as error:
            if error.error_name not in OVERTAKEN:
                raise
            self._say(stand, OVERTAKEN[error.error_name])
            return
        self.appeals += 1
        self._say(stand, f"appealed round {case.round} for {show_amount(price.cost)}")

    def _refusal(self, price: AppealPrice, case: Accusation) -> str:
        """Why an appeal is too dear; empty where it is not."""
        total, in_epoch = price.spent + price.cost, price.spent_in_epoch + price.cost
        taken, until = show_amount(total), _moment(case.appeal_end)
        if total > self._budget.per_case:
            most = show_amount(self._budget.per_case)
            return f"not appealed: it takes {taken} in all, appeal_budget is {most}: raise it, and restart, by {until}"
        if in_epoch > self._budget.per_epoch:
            most, taken = show_amount(self._budget.per_epoch), show_amount(in_epoch)
            return (
                f"not appealed: with its epoch's other cases it takes {taken}, appeal_budget_epoch is {most}: "
                f"raise it, and restart, by {until}"
            )
        if total > price.at_stake:
            return f"not appealed: it takes {taken} in all, and the case {show_amount(price.at_stake)} at most"
        return ""

    def _say(self, stand: _Stand, text: str) -> None:
        """Say it once."""
        if stand.said != text:
            stand.said = text
            log.warning("case %d, round %d: %s", stand.accusation.case_id, stand.accusation.round, text)


def _moment(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
