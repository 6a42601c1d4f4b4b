"""Replays on other owners' nodes: prepaid scoring jobs with a receipt like any."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retally.buy_scores import ScoreBuyer, ScoredRows
from retally.chain.calibrations import Calibrations
from retally.chain.clock import Clock
from retally.chain.registry import Registry
from retally.errors import RetallyError
from retally.node_client import NodeClient
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address
from retally.protocol.evidence import JobLogE, combine
from retally.protocol.grammar import AnswerMasks
from retally.protocol.judgement import ids_to_score, judge_replay
from retally.protocol.margins import MaskedScores
from retally.protocol.wire import AnswerBundle
from retally_verifier.purse import StorePurse
from retally_verifier.records import NodeRecord
from retally_verifier.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """What all re-executors together say: the least of them."""

    log_e: float
    calibrated: bool
    detail: dict[str, Any]


class Replayer:
    """Buys scores of answers from nodes of other owners."""

    def __init__(
        self,
        store: Store,
        client: NodeClient,
        registry: Registry,
        calibrations: Calibrations,
        key: SigningKey,
        domain: Domain,
        clock: Clock,
        *,
        lane: int,
        replayers: int,
    ) -> None:
        self._store = store
        self._registry = registry
        self._calibrations = calibrations
        self._key = key
        self._wanted = replayers
        self._buyer = ScoreBuyer(client, StorePurse(store, client, key, domain, lane), domain, clock)

    async def replay(
        self, bundle: AnswerBundle, commit: CommitRecord, eos_ids: Sequence[int], seed: bytes, masks: AnswerMasks
    ) -> Replay:
        """Replays an answer on enough nodes; with too few of them nothing is held against anybody."""
        receipt = bundle.receipt
        found: dict[Address, JobLogE] = {}
        said: list[dict[str, Any]] = []
        for node in await self._candidates(receipt.model_id, commit.owner, seed):
            if len(found) == self._wanted:
                break
            if node.owner in found:
                continue
            try:
                evidence = await self._one(bundle, commit, node, eos_ids, masks)
            except Exception as error:  # whatever a re-executor answers: it must not end the audits of others
                log.warning("replay on %s failed: %s", node.node, error, exc_info=not isinstance(error, RetallyError))
                said.append({"node": node.node, "error": getattr(error, "code", type(error).__name__)})
                continue
            found[node.owner] = evidence
            said.append({"node": node.node, "owner": node.owner, "logE": evidence.log_e, **evidence.summary})
        enough = len(found) == self._wanted
        calibrated = enough and all(evidence.calibrated for evidence in found.values())
        log_e = combine([evidence.log_e for evidence in found.values()]) if calibrated else 0.0
        return Replay(log_e, calibrated, {"replays": said})

    async def _candidates(self, model_id: bytes, accused: Address, seed: bytes) -> list[NodeRecord]:
        excluded = frozenset({accused, self._key.address})
        nodes = [node for node in self._store.live_nodes(model_id) if node.owner not in excluded]
        kept = [node for node in nodes if not await self._registry.are_siblings(accused, node.owner)]
        # By the commit's seed: the accused can't know beforehand who replays it.
        random.Random(seed).shuffle(kept)  # the seed is the randomness
        return kept

    async def _one(
        self,
        bundle: AnswerBundle,
        commit: CommitRecord,
        node: NodeRecord,
        eos_ids: Sequence[int],
        masks: AnswerMasks,
    ) -> JobLogE:
        ids, start = ids_to_score(bundle)
        scores = await self.score(node, ids, start)
        receipt = bundle.receipt
        pair = (receipt.profile_id, node.profile_id)
        calibration = await self._calibrations.find(receipt.model_id, *pair, commit.time)
        return judge_replay(bundle, MaskedScores(scores, masks), calibration, eos_ids)

    async def score(self, node: NodeRecord, ids: Sequence[int], start: int) -> ScoredRows:
        """The raw logprobs of ids[start:] by one node, paid for."""
        return await self._buyer.score(node, ids, start)
