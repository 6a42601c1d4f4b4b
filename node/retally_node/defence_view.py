"""The defence's port over the real Court."""

from __future__ import annotations

from retally.chain.connection import Chain
from retally.chain.court import Case, CaseStatus
from retally.chain.follow_case import take_due_step
from retally.chain.staking import Offence, Role
from retally.chain.transactions import TxSender
from retally.protocol.case import Shown, VerdictKind
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.evidence_file import EPOCH_SECONDS
from retally_node.court_view import ChainCourt
from retally_node.defence import Accusation, AppealPrice, Means
from retally_node.weigh_case import CaseFacts

#: So long after its opening a case may turn out to be another one, where the chain takes blocks back.
SETTLED_SECONDS = 3600


class ChainDefence:
    """`DefenceCourt` over the Court; the key that collects pays, and gets back what returns."""

    def __init__(self, chain: Chain, sender: TxSender, owner: Address, court: ChainCourt) -> None:
        self._chain = chain
        self._sender = sender
        self._owner = owner
        self._court = court
        self._others: set[int] = set()
        self._own: dict[int, Case] = {}
        self._facts: dict[int, CaseFacts] = {}

    async def accusations(self) -> list[Accusation]:
        """The cases against this owner that are not over."""
        court = self._chain.court
        ids = range(1, await court.case_count() + 1)
        found = await court.cases_of([case_id for case_id in ids if case_id not in self._others])
        mine = {}
        for case_id, case in found.items():
            self._keep(case_id, case)
            if case.owner == self._owner and case.status != CaseStatus.CLOSED:
                mine[case_id] = case
            elif case.opened_at + SETTLED_SECONDS < self._chain.clock.now():
                self._others.add(case_id)
        return [_accusation(case_id, case) for case_id, case in mine.items()]

    def _keep(self, case_id: int, case: Case) -> None:
        """Own cases, over or not; what was known of a case is forgotten where its number is another's now."""
        known = self._own.pop(case_id, None)
        if known is not None and _opening(known) != _opening(case):
            self._facts.pop(case_id, None)
        if case.owner == self._owner:
            self._own[case_id] = case

    async def facts(self, case_id: int) -> CaseFacts:
        """What the chain says about a case."""
        if case_id not in self._facts:
            self._facts[case_id] = await self._court.facts(case_id)
        return self._facts[case_id]

    async def means(self) -> Means:
        """What the key that sends holds, and what the first appeal of any case takes."""
        payer = self._sender.address
        return Means(payer, await self._chain.asset.balance_of(payer), await self._chain.court.appeal_cost(0))

    async def price(self, case_id: int) -> AppealPrice:
        """What an appeal would take."""
        court, payer = self._chain.court, self._sender.address
        cost = await court.appeal_cost(case_id)
        case = await court.case_of(case_id)
        others = [each for each, of in self._own.items() if of.epoch == case.epoch]
        # Read anew: this round of the loop may have appealed one of them a moment ago.
        cases = await court.cases_of(others) | {case_id: case}
        spent = {each: await self._spent(each, of) for each, of in cases.items()}
        held = await self._chain.asset.balance_of(payer)
        return AppealPrice(cost, spent[case_id], sum(spent.values()), await self._at_stake(case), held, payer)

    async def _spent(self, case_id: int, case: Case) -> int:
        """What appeals of a case pulled from the key that sends."""
        if case.appeals == 0:
            return 0
        court, payer = self._chain.court, self._sender.address
        earlier = await court.appeals_of(case_id, case.appeals)
        base = await court.appeal_cost(0)
        tips = 2 * await court.tip()
        # Each appeal doubles fee and bond once more. What others paid, on either side, is no cost of this defence: a
        # stranger's early appeal must not use up the owner's bounds.
        return sum(
            ((base - tips) << number) + tips
            for number, appeal in enumerate(earlier)
            if appeal.appealed == VerdictKind.MISMATCH and appeal.appellant == payer
        )

    async def _at_stake(self, case: Case) -> int:
        """The severity that the case may still take: no stake pays twice in an epoch (R-39)."""
        staking = self._chain.staking
        stake = await staking.slashable(self._owner, Role.OPERATOR)
        held = await self._chain.escrow.held_of(self._owner)
        if stake == 0:
            return held
        taken = await self._chain.court.taken_of(self._owner, case.opened_at // EPOCH_SECONDS)
        severity = await staking.severity_of(self._owner, Role.OPERATOR, Offence.MISMATCH)
        return max(0, severity * (stake + held + taken) // stake - taken)

    async def appeal(self, case_id: int, cost: int) -> None:
        """Appeal; raises TransactionFailed where the Court refuses."""
        court, asset = self._chain.court, self._chain.asset
        if await asset.allowance(self._sender.address, court.address) < cost:
            await self._sender.send(asset.approve(court.address, cost))
        await self._sender.send(court.appeal(case_id))

    async def move_on(self, case_id: int, shown: tuple[Shown, ...]) -> None:
        """Take the step that is due, if any."""
        case = await self._chain.court.case_of(case_id)
        await take_due_step(self._chain, self._sender, case_id, case, shown)

    async def withdraw(self) -> int:
        """Take back what the Court owes the key that sends; returns how much."""
        owed = await self._chain.court.credit(self._sender.address)
        if owed:
            await self._sender.send(self._chain.court.withdraw_credit())
        return owed


def _accusation(case_id: int, case: Case) -> Accusation:
    decided = case.status == CaseStatus.DECIDED
    return Accusation(
        case_id=case_id,
        round=case.round,
        verdict=case.verdict if decided else 0,
        appeal_end=case.appeal_end if decided else 0,
        appeals=case.appeals,
        own_job=case.own_job,
        opening=_opening(case),
    )


def _opening(case: Case) -> tuple[int, Bytes32]:
    return case.opened_at, case.shown_hash
