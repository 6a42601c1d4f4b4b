"""Look before accusing: what a case would show, replayed on the verifier's own engine first."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retally.chain.calibrations import Calibrations
from retally.errors import EngineUnavailable, UpstreamTimeout
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import Engine
from retally.inference.own_engine import EngineScorer
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Bytes32, keccak, to_hex
from retally.protocol.evidence import JobLogE, verdict_of
from retally.protocol.exact import judge_pair
from retally.protocol.form_judgement import judge_before_replay
from retally.protocol.judgement import ids_to_score
from retally.protocol.margins import MaskedScores
from retally.protocol.wire import AnswerBundle
from retally_verifier.records import Finding, FindingState
from retally_verifier.store import Store

log = logging.getLogger(__name__)

#: Where a finding keeps what the verifier's own engine says.
OWN = "own"
REMEDY = "start it, or take engine_url out of the settings"
#: So often an answer is tried that the engine can't score while it scores others, before it counts as no guilt.
TRIES = 3


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model at hand: the engine that serves it, and its template and tokenizer."""

    engine: Engine
    chat_format: ChatFormat
    #: What the engine says that it serves now; raises EngineUnavailable where it says nothing.
    serves: Callable[[], Awaitable[str]]


class SecondLook:
    """Takes the verifier's own engine in as one more re-executor: the least of all counts (R-58)."""

    def __init__(
        self,
        store: Store,
        models: Mapping[Bytes32, OwnModel],
        calibrations: Calibrations,
        engine_url: str,
        profile_id: Bytes32 | None,
        exact: Collection[bytes] = (),
    ) -> None:
        """`profile_id` is what the engine runs under; None takes it to be each accused node's."""
        self._store = store
        self._models = models
        self._calibrations = calibrations
        self._engine_url = engine_url
        self._profile_id = profile_id
        self._exact = exact
        self._failed: Counter[tuple[Bytes32, int, int]] = Counter()
        self._serving: dict[Bytes32, str] = {}
        self._renewed: dict[Bytes32, str] = {}

    async def renew(self, since: int) -> None:
        """Takes back what another engine cleared, and once in a life what none could judge: it is looked at again."""
        changed = {}
        for model_id, model in self._models.items():
            try:
                self._serving[model_id] = engine = await model.serves()
            except (EngineUnavailable, UpstreamTimeout) as error:
                log.debug("own engine says nothing of itself: %s", error.message)
                continue
            if self._renewed.get(model_id) != engine:
                changed[model_id] = engine
        if not changed:
            return
        for owner in self._store.owners(since):
            for found in self._store.findings_of_owner(owner, since):
                self._take_back(found, changed)
        self._renewed |= changed

    def _take_back(self, found: Finding, serving: Mapping[Bytes32, str]) -> None:
        own = found.detail.get(OWN)
        if own is None or found.log_e >= own["others"]:
            return
        engine = serving.get(AnswerBundle.from_wire(json.loads(found.answer or b"{}")).receipt.model_id)
        if engine is None or (own["calibrated"] and own.get("engine") == self._named(engine)):
            return
        log.warning("owner %s, commit %d: cleared by an engine that has changed since", found.owner, found.commit_id)
        self._store.put_finding(without_own(found))

    def _named(self, engine: str) -> str:
        """One engine, where it is and as what it counts; hashed, since findings are shown to anybody."""
        profile = "theirs" if self._profile_id is None else to_hex(self._profile_id)
        return to_hex(keccak(f"{self._engine_url} {profile} {engine}".encode()))

    async def at(self, shown: Sequence[Finding]) -> bool:
        """Looks at those not seen before; returns whether there were any, whose evidence may be less now.

        Raises EngineUnavailable while the engine can't be asked: nobody is accused unseen.
        """
        fresh = [found for found in shown if found.state == FindingState.REPLAYED and OWN not in found.detail]
        for found in fresh:
            bundle = AnswerBundle.from_wire(json.loads(found.answer or b"{}"))
            profile_id = self._profile_id or bundle.receipt.profile_id
            own = await self._judge(bundle, profile_id, found.time)
            engine = self._named(self._serving.get(bundle.receipt.model_id, ""))
            # One that covers several points has as many findings.
            for each in self._store.findings_of_receipt(found.receipt_digest or b""):
                if each.state == FindingState.REPLAYED:
                    self._store.put_finding(with_own(each, own, profile_id, engine))
        return bool(fresh)

    async def _judge(self, bundle: AnswerBundle, profile_id: Bytes32, committed_at: int) -> JobLogE:
        receipt = bundle.receipt
        model = self._models.get(receipt.model_id)
        if model is None:
            # Judged under other settings: the books keep a period.
            raise EngineUnavailable(
                f"no case is opened about the model {to_hex(receipt.model_id)}, of which no folder is in model_dirs",
                hint="name its folder in the settings, or take engine_url out of them",
            )
        form = model.chat_format
        judged, masks = await asyncio.to_thread(judge_before_replay, bundle, form.render, form.eos_ids, form.grammars)
        if judged is not None:
            return judged.evidence
        scorer = EngineScorer(model.engine, self._engine_url, profile_id)
        ids, start = ids_to_score(bundle)
        try:
            scores = MaskedScores(await scorer.score(ids, start), masks)
        except (EngineUnavailable, UpstreamTimeout) as error:
            if await self._is_beyond(scorer, bundle, ids):
                log.warning("own engine can't score job %s: %s", to_hex(receipt.job_id), error.message)
                return JobLogE(0.0, False, {"reason": "this verifier's own engine could not score it"})
            hint = REMEDY if error.hint == type(error).hint else error.hint
            raise EngineUnavailable(
                f"no case is opened that this verifier's own engine, {self._engine_url}, does not bear out, "
                f"and it can't be asked: {error.message}; {hint}",
                hint=hint,
            ) from error
        known = await self._calibrations.find(receipt.model_id, receipt.profile_id, profile_id, committed_at)
        return judge_pair(bundle, scores, known, form.eos_ids, scored_by=profile_id, exact=self._exact)

    async def _is_beyond(self, scorer: EngineScorer, bundle: AnswerBundle, ids: Sequence[int]) -> bool:
        """Whether it is this answer that the engine can't score: one too long would keep its owner from any court."""
        receipt = bundle.receipt
        answer = (receipt.job_id, receipt.choice, receipt.output_from)
        self._failed[answer] += 1
        if self._failed[answer] < TRIES:
            return False
        try:
            await scorer.score(ids[:2], 1)
        except (EngineUnavailable, UpstreamTimeout):
            return False
        return True


def with_own(found: Finding, own: JobLogE, profile_id: bytes, engine: str) -> Finding:
    """The finding with one re-executor more; whom it contradicts stands alone, and what it can't judge is no guilt."""
    log_e = min(found.log_e, own.log_e if own.calibrated else 0.0)
    clears = own.calibrated and own.verdict == VerdictKind.MATCH
    replays = [dict(each) for each in found.detail.get("replays", ())]
    alone = [number for number, each in enumerate(replays) if clears and _stands_alone(each)]
    for number in alone:
        replays[number]["alone"] = True
    said: dict[str, Any] = {
        "profile": to_hex(profile_id),
        "engine": engine,
        "logE": own.log_e,
        "calibrated": own.calibrated,
        # What the re-executors said, of which the least counts, and which of them it made stand alone.
        "others": found.log_e,
        "alone": alone,
        **own.summary,
    }
    return replace(
        found, log_e=log_e, verdict=verdict_of(log_e), detail={**found.detail, "replays": replays, OWN: said}
    )


def without_own(found: Finding) -> Finding:
    """The finding as it was before the verifier's own engine was asked."""
    own = found.detail[OWN]
    replays = [dict(each) for each in found.detail.get("replays", ())]
    for number in own.get("alone", ()):
        del replays[number]["alone"]
    detail = {name: value for name, value in found.detail.items() if name != OWN} | {"replays": replays}
    return replace(found, log_e=own["others"], verdict=verdict_of(own["others"]), detail=detail)


def _stands_alone(replay: Mapping[str, Any]) -> bool:
    if "logE" not in replay or replay.get("alone") or verdict_of(replay["logE"]) != VerdictKind.MISMATCH:
        return False
    log.warning("re-executor %s stands alone: log e %.2f, own engine: match", replay["owner"], replay["logE"])
    return True
