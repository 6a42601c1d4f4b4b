"""When an owner's evidence is overwhelming: bring it to court."""

from __future__ import annotations

import json
import logging
from collections import defaultdict

from retally.chain.connection import Chain
from retally.chain.court import CaseStatus, Opening, decode_shown
from retally.chain.follow_case import take_due_step
from retally.chain.staking import Offence, Role
from retally.chain.transactions import TxSender
from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import VerdictKind, unpack_ranges
from retally.protocol.encoding import Address, to_hex
from retally.protocol.evidence import JobEvidence, owner_verdict
from retally.protocol.evidence_file import (
    EPOCH_SECONDS,
    MAX_POINTS,
    EvidenceFile,
    EvidencePoint,
    period_start,
    shown_points,
)
from retally.protocol.judgement import case_wealth
from retally.protocol.wire import AnswerBundle
from retally_verifier.in_turn import each, in_turn
from retally_verifier.records import CaseRecord, Finding, Pair
from retally_verifier.second_look import SecondLook
from retally_verifier.store import Store

log = logging.getLogger(__name__)


class CaseOpener:
    """Opens cases and moves its own on when they are due."""

    def __init__(
        self, chain: Chain, sender: TxSender, store: Store, public_url: str, look: SecondLook | None = None
    ) -> None:
        """With a second look no case is opened that the verifier's own engine does not bear out."""
        self._chain = chain
        self._sender = sender
        self._store = store
        self._public_url = public_url.rstrip("/")
        self._look = look

    async def step(self) -> None:
        """Moves open cases on, then opens what evidence asks for."""
        failed = await in_turn([case for case in self._store.cases() if not case.closed], self._advance)
        now = self._chain.clock.now()
        if self._look is not None:
            await self._look.renew(period_start(now))
        # Though the verifier's engine is down: what others are accused of may have been seen before, or need none.
        await each(self._store.owners(period_start(now)), lambda owner: self._consider(owner, now))
        if failed is not None:
            raise failed

    def wealth_of(self, owner: Address, now: int) -> tuple[float, list[Finding]]:
        """log wealth of an owner over the period, and the findings that a case would show."""
        since = period_start(now)
        # No case is opened with evidence that rests on a pair that is held back.
        frozen, found = self._store.frozen_pairs(now), self._store.findings_of_owner(owner, since)
        found = [each for each in found if frozen.isdisjoint(Pair.of_detail(each.detail))]
        shown = _of_one_pair(_strongest(found))
        if not shown:
            return 0.0, []
        drawn = self._drawn(owner, since)
        file = self._file(owner, shown)
        jobs = [JobEvidence(found.payer, found.log_e) for found in shown]
        covered = list(shown_points(file, drawn, self._chain.domain).values())
        return case_wealth(jobs, len(drawn), covered), shown

    async def _consider(self, owner: Address, now: int) -> None:
        if await self._has_booked_case(owner):
            return
        wealth, shown = self.wealth_of(owner, now)
        if owner_verdict(wealth) != VerdictKind.MISMATCH:
            return
        if await self._has_paid(owner, now):
            return
        file = self._file(owner, shown)
        if any(case.owner == owner and case.evidence_hash == file.hash for case in self._store.cases()):
            # The court has heard this very evidence.
            return
        if await self._has_unbooked_case(owner):
            return
        if self._look is not None and await self._look.at(shown):
            # What is less now may be less than a case takes, or another set of receipts.
            said = wealth, self.wealth_of(owner, now)[0]
            log.warning("owner %s: log wealth %.1f, with this verifier's own engine %.1f", owner, *said)
            await self._consider(owner, now)
            return
        log.warning("owner %s: log wealth %.1f over %d receipts, going to court", owner, wealth, len(shown))
        await self._open(owner, file)

    async def _has_booked_case(self, owner: Address) -> bool:
        """Whether a case goes on; a payer's own job keeps none from being opened (R-67)."""
        going_on = [case.id for case in self._store.cases() if case.owner == owner and not case.closed]
        return any([not (await self._chain.court.case_of(case_id)).own_job for case_id in going_on])

    async def _has_paid(self, owner: Address, now: int) -> bool:
        """Whether the epoch's cases took all that a mismatch costs today (R-39): a slash of dust is no payment."""
        taken = await self._chain.court.taken_of(owner, now // EPOCH_SECONDS)
        stake = await self._chain.staking.slashable(owner, Role.OPERATOR)
        if taken == 0 or stake == 0:
            return False
        severity = await self._chain.staking.severity_of(owner, Role.OPERATOR, Offence.MISMATCH)
        at_stake = stake + await self._chain.escrow.held_of(owner) + taken
        return severity * at_stake // stake <= taken

    async def _has_unbooked_case(self, owner: Address) -> bool:
        """Whether the chain has one that the books lack: too young to be confirmed, or sent before a crash."""
        await self._sender.resume()
        booked = {case.id for case in self._store.cases()}
        for case_id in range(1, await self._chain.court.case_count() + 1):
            if case_id in booked:
                continue
            state = await self._chain.court.case_of(case_id)
            if state.owner == owner and state.status != CaseStatus.CLOSED and not state.own_job:
                return True
        return False

    async def _open(self, owner: Address, file: EvidenceFile) -> None:
        data, hash_ = file.to_bytes(), file.hash
        self._store.put_evidence(hash_, data)
        uri = f"{self._public_url}/evidence/{to_hex(hash_)}"
        receipt = file.points[0].answer.receipt
        pools = self._chain.juror_pools
        pool = await pools.pool_of(receipt.model_id, receipt.profile_id)
        # The contract counts what was enlisted, whoever is gone since.
        alive = (await pools.readiness(receipt.model_id, receipt.profile_id)).ready
        if not alive or not await pools.may_judge(pool, owner):
            log.error("owner %s: no pool may judge what it served, a case would cost the fee", owner)
            return
        await self._allow(self._chain.court.address, await self._chain.court.opening_cost())
        opening = Opening(owner, pool, file.shown(self._chain.domain), hash_, uri)
        await self._sender.send(self._chain.court.open(opening))

    async def _allow(self, spender: Address, amount: int) -> None:
        if await self._chain.asset.allowance(self._sender.address, spender) < amount:
            await self._sender.send(self._chain.asset.approve(spender, amount))

    def _drawn(self, owner: Address, since: int) -> list[tuple[int, AuditPoint]]:
        drawn: list[tuple[int, AuditPoint]] = []
        for commit in self._store.commits_of(owner, since):
            if commit.seed is None:
                continue
            record, ranges = commit.record, unpack_ranges(commit.packed_ranges)
            drawn.extend((record.id, p) for p in drawn_points(commit.seed, ranges, record.node, record.step))
        return drawn

    def _file(self, owner: Address, shown: list[Finding]) -> EvidenceFile:
        commits = {commit.record.id: commit for commit in self._store.commits_of(owner, 0)}
        points = []
        for found in shown:
            commit = commits[found.commit_id]
            answer = AnswerBundle.from_wire(json.loads(found.answer or b"{}"))
            points.append(EvidencePoint(commit.record, commit.packed_ranges, found.range_index, found.k, answer))
        return EvidenceFile(self._chain.deployment.chain_id, owner, tuple(points))

    async def _advance(self, case: CaseRecord) -> None:
        state = await self._chain.court.case_of(case.id)
        if state.status == CaseStatus.CLOSED:
            self._store.close_case(case.id, state.verdict)
            return
        await take_due_step(self._chain, self._sender, case.id, state, decode_shown(case.shown))


def _strongest(findings: list[Finding]) -> list[Finding]:
    """One finding for each receipt, the strongest first, as many as a case may show."""
    by_receipt: dict[bytes, Finding] = {}
    for found in findings:
        if found.receipt_digest is not None and found.answer is not None and found.log_e > 0:
            by_receipt.setdefault(found.receipt_digest, found)
    return sorted(by_receipt.values(), key=lambda found: -found.log_e)[:MAX_POINTS]


def _of_one_pair(findings: list[Finding]) -> list[Finding]:
    """Those of the model and profile with the most evidence: a case names one pair, whose jurors can replay it."""
    weights: dict[tuple[bytes, bytes], float] = defaultdict(float)
    pairs = []
    for found in findings:
        receipt = AnswerBundle.from_wire(json.loads(found.answer or b"{}")).receipt
        pairs.append((receipt.model_id, receipt.profile_id))
        weights[pairs[-1]] += found.log_e
    return [found for found, pair in zip(findings, pairs, strict=True) if weights[pair] == max(weights.values())]
