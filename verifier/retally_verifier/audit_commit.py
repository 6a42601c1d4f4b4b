"""Audit a commit: fix its seed, recompute its drawn points, have each judged, keep what came of it."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from retally.chain.connection import Chain
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed
from retally.protocol.answer import AnswerContext
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import VerdictKind, unpack_ranges
from retally.protocol.encoding import Address
from retally.protocol.evidence_file import period_start
from retally_verifier.agreement import Suspect, suspects
from retally_verifier.in_turn import in_turn
from retally_verifier.judge_point import Judged, Outcome, Unanswered, Unjudgeable, Weight
from retally_verifier.point_work import PointTask, PointWork
from retally_verifier.records import AuditedCommit, CommitState, Finding, FindingState, Pair
from retally_verifier.store import Store

log = logging.getLogger(__name__)

WARNED_SECONDS = 60.0
_NOT_YET = frozenset({"AuditsSeedNotReady"})


class CommitAuditor:
    """Moves commits from seen to audited; the only writer of findings."""

    def __init__(self, chain: Chain, sender: TxSender, store: Store, work: PointWork, patience_seconds: float) -> None:
        self._chain = chain
        self._sender = sender
        self._store = store
        self._work = work
        self._patience = patience_seconds
        self._failed_since: dict[tuple[int, int, int], float] = {}
        self._warned: tuple[float, tuple[Address, ...]] = (-math.inf, ())

    async def step(self) -> None:
        """Fixes seeds that can be fixed, and audits what is seeded."""
        failed = await in_turn(self._store.commits(CommitState.SEEN), self._fix_seed)
        commits = self._store.commits(CommitState.SEEDED)
        tasks = [task for commit in commits for task in self._open_tasks(commit)]
        async for task, outcome in self._work.judged(tasks, self._drawn_last()):
            if isinstance(outcome, Exception):
                log.error("commit %d: a point can't be judged", task.context.commit.id, exc_info=outcome)
                failed = outcome
            else:
                await self._record(task, outcome)
        for commit in commits:
            self._close(commit)
        if failed is not None:
            raise failed

    def _drawn_last(self) -> tuple[Address, ...]:
        """Re-executors on the warning list, as of a minute ago at most: it takes all replays of the period."""
        if time.monotonic() - self._warned[0] > WARNED_SECONDS:
            self._warned = (time.monotonic(), tuple(suspects_of(self._store, self._chain.clock.now())))
        return self._warned[1]

    async def _fix_seed(self, commit: AuditedCommit) -> None:
        seed = await self._chain.audits.seed_of(commit.record.id)
        if seed is None:
            try:
                await self._sender.send(self._chain.audits.fix_seed(commit.record))
            except TransactionFailed as error:
                if error.error_name not in _NOT_YET | {"AuditsSeedAlreadyFixed"}:
                    raise
            seed = await self._chain.audits.seed_of(commit.record.id)
        if seed is not None:
            self._store.set_seed(commit.record.id, seed)

    def _tasks(self, commit: AuditedCommit) -> list[PointTask]:
        if commit.seed is None:
            return []
        ranges, record = unpack_ranges(commit.packed_ranges), commit.record
        points = drawn_points(commit.seed, ranges, record.node, record.step)
        domain = self._chain.domain
        contexts = [AnswerContext(domain, record, ranges[point.range_index], point) for point in points]
        return [PointTask(context, commit.seed) for context in contexts]

    def _open_tasks(self, commit: AuditedCommit) -> list[PointTask]:
        known = {(commit.record.id, found.range_index, found.k) for found in self._found(commit)}
        return [task for task in self._tasks(commit) if task.id not in known]

    def _found(self, commit: AuditedCommit) -> list[Finding]:
        return self._store.findings_of_commit(commit.record.id)

    async def _record(self, task: PointTask, outcome: Outcome) -> None:
        finding: Finding | None
        if isinstance(outcome, Judged):
            finding = self._finding(task, outcome)
        elif isinstance(outcome, Unjudgeable):
            finding = _unjudged(task, outcome)
        else:
            finding = self._silent(task, outcome)
        if finding is not None:
            point, said = task.context.point.point, finding.state
            log.info("commit %d point %d: %s, log e %.2f", task.context.commit.id, point, said, finding.log_e)
            self._store.put_finding(finding)
        await self._work.recorded(task)

    def _close(self, commit: AuditedCommit) -> None:
        if commit.seed is None or self._open_tasks(commit):
            return
        points = len(self._tasks(commit))
        log.info("commit %d audited: %d points", commit.record.id, points)
        self._store.set_state(commit.record.id, CommitState.AUDITED if points else CommitState.DONE)

    def _finding(self, task: PointTask, judged: Judged) -> Finding:
        again = self._store.finding_of_receipt(judged.receipt_digest)
        weight = judged.weight if again is None else Weight(again.state, again.verdict, again.log_e, again.detail)
        if weight.state == FindingState.REPLAYED:
            weight = self._unless_frozen(weight)
        return Finding(
            **_place(task.context),
            state=weight.state,
            verdict=weight.verdict,
            log_e=weight.log_e,
            receipt_digest=judged.receipt_digest,
            fee=judged.fee,
            answer=judged.answer,
            detail=weight.detail,
        )

    def _unless_frozen(self, weight: Weight) -> Weight:
        if self._store.frozen_pairs(self._chain.clock.now()).isdisjoint(Pair.of_detail(weight.detail)):
            return weight
        detail = {**weight.detail, "reason": "the pair of profiles is frozen: its calibration drifted"}
        return Weight(FindingState.FROZEN, VerdictKind.INCONCLUSIVE, 0.0, detail)

    def _silent(self, task: PointTask, outcome: Unanswered) -> Finding | None:
        """After a while without an answer the point is found silent; before, it is asked for again."""
        context = task.context
        since = self._failed_since.setdefault(task.id, time.monotonic())
        if time.monotonic() - since < self._patience:
            return None
        log.warning("commit %d point %d: no answer: %s", context.commit.id, context.point.point, outcome.reason)
        return Finding(
            **_place(context),
            state=FindingState.SILENT,
            verdict=VerdictKind.INCONCLUSIVE,
            log_e=0.0,
            detail={"reason": outcome.reason, "code": outcome.code},
        )


def suspects_of(store: Store, now: int) -> dict[Address, Suspect]:
    """The warning list: re-executors that stand alone often, over this period."""
    return suspects(row.detail for row in store.replays(period_start(now)))


def _unjudged(task: PointTask, outcome: Unjudgeable) -> Finding:
    place, detail = _place(task.context), {"reason": outcome.reason}
    return Finding(
        **place, state=FindingState.UNREPLAYED, verdict=VerdictKind.INCONCLUSIVE, log_e=0.0, detail=detail
    )  # fmt: skip


def _place(context: AnswerContext) -> dict[str, Any]:
    return {
        "commit_id": context.commit.id,
        "range_index": context.point.range_index,
        "k": context.point.k,
        "channel": context.point.channel,
        "point": context.point.point,
        "owner": context.commit.owner,
        "node": context.commit.node,
        "payer": context.range.payer,
        "time": context.commit.time,
    }
