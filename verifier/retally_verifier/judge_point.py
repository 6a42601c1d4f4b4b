"""Judge one drawn point: fetch its answer, check it, replay it. Writes no books and sends no transaction."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import RetallyError
from retally.inference.chat_format import ChatFormat
from retally.protocol.answer import AnswerContext, Deviation, find_foreign_request
from retally.protocol.case import CommitRecord, VerdictKind
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.evidence import JOB_CLIP, verdict_of
from retally.protocol.form_judgement import judge_before_replay
from retally.protocol.job import canonical_json
from retally.protocol.wire import AnswerBundle
from retally_verifier.fetch_answer import AnswerFetcher
from retally_verifier.records import FindingState
from retally_verifier.replay import Replayer

log = logging.getLogger(__name__)

#: Receipts whose weight is remembered: one that covers several points is replayed once.
KEPT = 256


@dataclass(frozen=True, slots=True)
class Weight:
    """What an answer amounts to."""

    state: FindingState
    verdict: int
    log_e: float
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one point."""

    weight: Weight
    receipt_digest: Bytes32
    fee: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The node showed nothing that is an answer."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class Unjudgeable:
    """Judging it failed so often that nobody tries again."""

    reason: str


Outcome = Judged | Unanswered | Unjudgeable


class PointJudge:
    """Judges points, several at a time."""

    def __init__(
        self, domain: Domain, fetcher: AnswerFetcher, replayer: Replayer, formats: Mapping[Bytes32, ChatFormat]
    ) -> None:
        self._domain = domain
        self._fetcher = fetcher
        self._replayer = replayer
        self._formats = formats
        self._weights: OrderedDict[Bytes32, asyncio.Task[Weight]] = OrderedDict()

    async def judge(self, context: AnswerContext, seed: bytes, last: Collection[Address]) -> Outcome:
        """What the node shows and what re-executors say of it; owners in `last` replay only where others do not."""
        try:
            bundle = await self._fetcher.fetch(context)
            # Kept as it is hashed: what can't be, say a float in a prompt that nobody may see, is no answer either.
            answer = canonical_json(bundle.to_wire())
        except RetallyError as error:
            return Unanswered(error.message, error.code)
        except Exception as error:
            # What can't even be read is no answer: left as it is, the point would be asked for again for ever.
            log.warning("node %s: what it shows can't be read", context.commit.node, exc_info=True)
            return Unanswered(f"what the node shows can't be read: {type(error).__name__}", "malformed")
        digest = bundle.receipt.digest(self._domain)
        weight = await self._weight_once(digest, bundle, context.commit, seed, last)
        return Judged(weight, digest, bundle.receipt.fee, answer)

    async def _weight_once(
        self, digest: Bytes32, bundle: AnswerBundle, commit: CommitRecord, seed: bytes, last: Collection[Address]
    ) -> Weight:
        task = self._weights.get(digest)
        if task is None:
            task = self._weights[digest] = asyncio.create_task(self._weigh(bundle, commit, seed, last))
            while len(self._weights) > KEPT:
                self._weights.popitem(last=False)
        try:
            weight = await task
        except BaseException:
            self._weights.pop(digest, None)
            raise
        if weight.state == FindingState.UNREPLAYED:
            # Another point of it may find more re-executors.
            self._weights.pop(digest, None)
        return weight

    async def _weigh(
        self, bundle: AnswerBundle, commit: CommitRecord, seed: bytes, last: Collection[Address]
    ) -> Weight:
        foreign = find_foreign_request(bundle)
        if foreign is not None:
            return _deviating(foreign)
        chat_format = self._formats.get(bundle.receipt.model_id)
        if chat_format is None:
            return _inconclusive(FindingState.UNREPLAYED, {"reason": "the model is not known here"})
        judged, masks = await asyncio.to_thread(
            judge_before_replay, bundle, chat_format.render, chat_format.eos_ids, chat_format.grammars
        )
        if judged is not None and judged.deviation is not None:
            return _deviating(judged.deviation)
        if judged is not None:
            return _inconclusive(FindingState.REPLAYED, {"reason": "nothing to replay"})
        drawn_by = seed + bundle.receipt.digest(self._domain)
        replay = await self._replayer.replay(bundle, commit, chat_format.eos_ids, drawn_by, last, masks)
        if not replay.calibrated:
            return _inconclusive(FindingState.UNREPLAYED, replay.detail)
        return Weight(FindingState.REPLAYED, verdict_of(replay.log_e), replay.log_e, replay.detail)


def _deviating(deviation: Deviation) -> Weight:
    detail: dict[str, Any] = {"rule": deviation.rule, "expected": deviation.expected, "actual": deviation.actual}
    return Weight(FindingState.DEVIATING, VerdictKind.MISMATCH, JOB_CLIP, detail)


def _inconclusive(state: FindingState, detail: dict[str, Any]) -> Weight:
    return Weight(state, VerdictKind.INCONCLUSIVE, 0.0, detail)
