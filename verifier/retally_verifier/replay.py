"""Replays on other owners' nodes: prepaid scoring jobs with a receipt like any."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from retally.buy_scores import ScoreBuyer
from retally.chain.calibrations import Calibrations
from retally.chain.clock import Clock
from retally.chain.registry import Registry
from retally.errors import RetallyError
from retally.node_client import NodeClient
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, to_hex
from retally.protocol.evidence import covering_table
from retally.protocol.exact import has_equality, judge_pair
from retally.protocol.form_judgement import FREE
from retally.protocol.grammar import AnswerMasks
from retally.protocol.judgement import ids_to_score, replayed_of
from retally.protocol.margins import MaskedScores, robust_margins
from retally.protocol.scored_rows import ScoredRows
from retally.protocol.wire import AnswerBundle
from retally_verifier.agreement import Said, agreeing, count, is_unanimous
from retally_verifier.drift import drift_log_e
from retally_verifier.purse import StorePurse
from retally_verifier.records import NodeRecord
from retally_verifier.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """What the re-executors that count say together: the least of them (R-35, R-58)."""

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
        most_replayers: int = 5,
        at_once: int = 1,
        max_price: int | None = None,
        exact: Collection[bytes] = (),
    ) -> None:
        self._store = store
        self._registry = registry
        self._calibrations = calibrations
        self._key = key
        self._wanted = replayers
        self._most = max(replayers, most_replayers)
        self._exact = exact
        # A node sets its price and is drawn by chance: without a bound one draw could take the whole deposit.
        purse = StorePurse(store, client, key, domain, lane)
        self._buyer = ScoreBuyer(client, purse, domain, clock, at_once, max_price=max_price)

    async def replay(
        self,
        bundle: AnswerBundle,
        commit: CommitRecord,
        eos_ids: Sequence[int],
        seed: bytes,
        last: Collection[Address] = (),
        masks: AnswerMasks = FREE,
    ) -> Replay:
        """Replays an answer on enough nodes, and on further ones where these disagree.

        With too few of them nothing is held against anybody. Owners in `last` are drawn only where others do not
        suffice.
        """
        drawing = _Drawing(bundle, commit, eos_ids, masks, self._exact)
        owners = await self._owners(drawing, seed, last)
        # Which owners a dispute may reach is fixed before any of them has spoken.
        most = max(self._wanted, min(self._most, len(owners)))
        for index, nodes in enumerate(owners):
            if len(drawing.said) >= self._wanted and (index >= most or drawing.is_settled(most)):
                break
            await self._ask(drawing, nodes)
        if len(drawing.said) < self._wanted or not all(each.evidence.calibrated for each in drawing.said):
            return Replay(0.0, False, {"replays": drawing.told(frozenset())})
        counted = count(drawing.said, most)
        for each in counted.alone:
            log.warning("re-executor %s stands alone: log e %.2f", each.owner, each.evidence.log_e)
        alone = frozenset(each.owner for each in counted.alone)
        return Replay(counted.log_e, True, {"replays": drawing.told(alone), **drawing.pairs(alone)})

    async def _owners(self, drawing: _Drawing, seed: bytes, last: Collection[Address]) -> list[list[NodeRecord]]:
        """The nodes of each other owner; owners in drawn order."""
        model_id = drawing.bundle.receipt.model_id
        nodes = await self._candidates(model_id, drawing.commit.owner, seed)
        known = {each: await self._calibration(drawing, each) for each in {node.profile_id for node in nodes}}
        judging = [node for node in nodes if drawing.can_judge(node.profile_id, known[node.profile_id])]
        if len({node.owner for node in judging}) >= self._wanted:
            # One of another profile could only turn the verdict into inconclusive.
            nodes = judging
        by_owner: dict[Address, list[NodeRecord]] = {}
        for node in nodes:
            by_owner.setdefault(node.owner, []).append(node)
        return sorted(by_owner.values(), key=lambda each: each[0].owner in last)

    async def _calibration(self, drawing: _Drawing, profile_id: bytes) -> Calibration | None:
        receipt = drawing.bundle.receipt
        return await self._calibrations.find(
            receipt.model_id, receipt.profile_id, profile_id, drawing.commit.time
        )  # fmt: skip

    async def _candidates(self, model_id: bytes, accused: Address, seed: bytes) -> list[NodeRecord]:
        excluded = frozenset({accused, self._key.address})
        nodes = [node for node in self._store.live_nodes(model_id) if node.owner not in excluded]
        kept = [node for node in nodes if not await self._registry.are_siblings(accused, node.owner)]
        # By the commit's seed: the accused can't know beforehand who replays it.
        chance = random.Random(seed)  # the seed is the randomness
        chance.shuffle(kept)
        # Owners have one lot each, however many nodes they run.
        owners = sorted({node.owner for node in kept})
        chance.shuffle(owners)
        return sorted(kept, key=lambda node: owners.index(node.owner))

    async def _ask(self, drawing: _Drawing, nodes: Sequence[NodeRecord]) -> None:
        """The first of an owner's nodes that answers."""
        for node in nodes:
            ids, start = ids_to_score(drawing.bundle)
            try:
                scores = await self.score(node, ids, start)
                drawing.add(node, scores, await self._calibration(drawing, node.profile_id))
            except Exception as error:  # whatever a re-executor answers: it must not end the audits of others
                log.warning("replay on %s failed: %s", node.node, error, exc_info=not isinstance(error, RetallyError))
                drawing.failed(node, error)
            else:
                return

    async def score(self, node: NodeRecord, ids: Sequence[int], start: int) -> ScoredRows:
        """The raw logprobs of ids[start:] by one node, paid for."""
        return await self._buyer.score(node, ids, start)


class _Drawing:
    """One job's re-executors as they speak, one after the other."""

    def __init__(
        self,
        bundle: AnswerBundle,
        commit: CommitRecord,
        eos_ids: Sequence[int],
        masks: AnswerMasks,
        exact: Collection[bytes],
    ) -> None:
        self.bundle = bundle
        self._exact = exact
        self._masks = masks
        self.commit = commit
        self.said: list[Said] = []
        self._eos = eos_ids
        self._replayed = replayed_of(bundle, eos_ids)
        self._told: list[dict[str, Any]] = []

    def can_judge(self, profile_id: bytes, calibration: Calibration | None) -> bool:
        """Whether scores of a node of this profile would lead to a verdict."""
        return self._is_exact(profile_id) or self._table(profile_id, calibration) is not None

    def _is_exact(self, profile_id: bytes) -> bool:
        return has_equality(self.bundle, profile_id, self._exact)

    def _table(self, profile_id: bytes, calibration: Calibration | None) -> MarginTable | None:
        """The table that judges this job, if there is one: equality needs none."""
        return None if self._is_exact(profile_id) else covering_table(self._replayed, calibration)

    def add(self, node: NodeRecord, scores: ScoredRows, calibration: Calibration | None) -> None:
        """What a node's scores say."""
        allowed = MaskedScores(scores, self._masks)
        evidence = judge_pair(
            self.bundle, allowed, calibration, self._eos, scored_by=node.profile_id, exact=self._exact
        )  # fmt: skip
        table, margins = self._table(node.profile_id, calibration), robust_margins(self._replayed, allowed)
        self.said.append(Said(node.owner, evidence, margins, table))
        place = {"node": node.node, "owner": node.owner, "profile": to_hex(node.profile_id)}
        told = {**place, "logE": evidence.log_e, **evidence.summary}
        self._told.append(told if table is None else {**told, "driftLogE": drift_log_e(margins, table)})

    def failed(self, node: NodeRecord, error: Exception) -> None:
        """Keeps why a node said nothing."""
        self._told.append({"node": node.node, "error": getattr(error, "code", type(error).__name__)})

    def is_settled(self, most: int) -> bool:
        """Whether further re-executors would change nothing."""
        if not all(each.evidence.calibrated for each in self.said):
            return True
        return is_unanimous(self.said) or bool(agreeing(self.said, most))

    def told(self, alone: Collection[Address]) -> list[dict[str, Any]]:
        """What the finding keeps of each."""
        return [{**each, "alone": True} if each.get("owner") in alone else each for each in self._told]

    def pairs(self, alone: Collection[Address]) -> dict[str, Any]:
        """The pairs of profiles that count, and the least drift evidence of all: nothing is chosen by what was said."""
        told = [each for each in self._told if "driftLogE" in each]
        counted = [each for each in told if each["owner"] not in alone]
        receipt = self.bundle.receipt
        return {
            "model": to_hex(receipt.model_id),
            "nodeProfile": to_hex(receipt.profile_id),
            "verifierProfiles": sorted({each["profile"] for each in counted}),
            "driftLogE": min((each["driftLogE"] for each in told), default=0.0),
        }
