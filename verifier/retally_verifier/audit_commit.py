"""Audit a commit: fix its seed, recompute its drawn points, judge each answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from retally.chain.connection import Chain
from retally.chain.transactions import TxSender
from retally.errors import RetallyError, TransactionFailed
from retally.inference.chat_format import ChatFormat
from retally.protocol.answer import AnswerContext, Deviation, find_foreign_request
from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import Range, VerdictKind, unpack_ranges
from retally.protocol.encoding import Bytes32
from retally.protocol.evidence import JOB_CLIP, verdict_of
from retally.protocol.form_judgement import judge_before_replay
from retally.protocol.job import canonical_json
from retally.protocol.wire import AnswerBundle
from retally_verifier.fetch_answer import AnswerFetcher
from retally_verifier.records import AuditedCommit, CommitState, Finding, FindingState
from retally_verifier.replay import Replayer
from retally_verifier.store import Store

log = logging.getLogger(__name__)

Weighed = tuple[FindingState, VerdictKind, float, dict[str, object]]

_NOT_YET = frozenset({"AuditsSeedNotReady"})


class CommitAuditor:
    """Moves commits from seen to audited."""

    def __init__(
        self,
        chain: Chain,
        sender: TxSender,
        store: Store,
        fetcher: AnswerFetcher,
        replayer: Replayer,
        formats: Mapping[Bytes32, ChatFormat],
        patience_seconds: float,
    ) -> None:
        self._chain = chain
        self._sender = sender
        self._store = store
        self._fetcher = fetcher
        self._replayer = replayer
        self._formats = formats
        self._patience = patience_seconds
        self._failed_since: dict[tuple[int, int, int], float] = {}

    async def step(self) -> None:
        """Fixes seeds that can be fixed, and audits what is seeded."""
        for commit in self._store.commits(CommitState.SEEN):
            await self._fix_seed(commit)
        failed: Exception | None = None
        for commit in self._store.commits(CommitState.SEEDED):
            try:
                await self._audit(commit)
            except Exception as error:  # one commit that can't be audited must not shield those after it
                log.exception("commit %d can't be audited", commit.record.id)
                failed = error
        if failed is not None:
            raise failed

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

    async def _audit(self, commit: AuditedCommit) -> None:
        if commit.seed is None:
            return
        ranges = unpack_ranges(commit.packed_ranges)
        points = drawn_points(commit.seed, ranges, commit.record.node, commit.record.step)
        known = {(found.range_index, found.k) for found in self._store.findings_of_commit(commit.record.id)}
        whole = True
        for point in points:
            if (point.range_index, point.k) in known:
                continue
            finding = await self._judge(commit, ranges[point.range_index], point)
            if finding is None:
                whole = False
            else:
                self._store.put_finding(finding)
        if whole:
            log.info("commit %d audited: %d points", commit.record.id, len(points))
            self._store.set_state(commit.record.id, CommitState.AUDITED if points else CommitState.DONE)

    async def _judge(self, commit: AuditedCommit, item: Range, point: AuditPoint) -> Finding | None:
        context = AnswerContext(self._chain.domain, commit.record, item, point)
        try:
            bundle = await self._fetcher.fetch(context)
        except RetallyError as error:
            return self._silent(context, error)
        digest = bundle.receipt.digest(self._chain.domain)
        again = self._store.finding_of_receipt(digest)
        if again is not None:
            state, verdict, log_e, detail = again.state, again.verdict, again.log_e, again.detail
        else:
            state, verdict, log_e, detail = await self._weigh(commit, bundle)
        log.info("commit %d point %d: %s, log e %.2f", commit.record.id, point.point, state, log_e)
        return Finding(
            **_place(context),
            state=state,
            verdict=verdict,
            log_e=log_e,
            receipt_digest=digest,
            fee=bundle.receipt.fee,
            answer=canonical_json(bundle.to_wire()),
            detail=detail,
        )

    async def _weigh(self, commit: AuditedCommit, bundle: AnswerBundle) -> Weighed:
        foreign = find_foreign_request(bundle)
        if foreign is not None:
            return _deviating(foreign)
        chat_format = self._formats.get(bundle.receipt.model_id)
        if chat_format is None:
            return FindingState.UNREPLAYED, VerdictKind.INCONCLUSIVE, 0.0, {"reason": "the model is not known here"}
        judged, masks = await asyncio.to_thread(
            judge_before_replay, bundle, chat_format.render, chat_format.eos_ids, chat_format.grammars
        )
        if judged is not None and judged.deviation is not None:
            return _deviating(judged.deviation)
        if judged is not None:
            return FindingState.REPLAYED, VerdictKind.INCONCLUSIVE, 0.0, {"reason": "nothing to replay"}
        seed = (commit.seed or b"") + bundle.receipt.digest(self._chain.domain)
        replay = await self._replayer.replay(bundle, commit.record, chat_format.eos_ids, seed, masks)
        if not replay.calibrated:
            return FindingState.UNREPLAYED, VerdictKind.INCONCLUSIVE, 0.0, replay.detail
        return FindingState.REPLAYED, verdict_of(replay.log_e), replay.log_e, replay.detail

    def _silent(self, context: AnswerContext, error: RetallyError) -> Finding | None:
        """After a while without an answer the point is found silent; before, it is asked for again."""
        key = (context.commit.id, context.point.range_index, context.point.k)
        since = self._failed_since.setdefault(key, time.monotonic())
        if time.monotonic() - since < self._patience:
            return None
        log.warning("commit %d point %d: no answer: %s", context.commit.id, context.point.point, error)
        return Finding(
            **_place(context),
            state=FindingState.SILENT,
            verdict=VerdictKind.INCONCLUSIVE,
            log_e=0.0,
            detail={"reason": error.message, "code": error.code},
        )


def _deviating(deviation: Deviation) -> Weighed:
    detail: dict[str, object] = {"rule": deviation.rule, "expected": deviation.expected, "actual": deviation.actual}
    return FindingState.DEVIATING, VerdictKind.MISMATCH, JOB_CLIP, detail


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
