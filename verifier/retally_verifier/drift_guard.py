"""Watches whether honest margins still lie under the calibrations' bounds, and holds a pair back that drifted."""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict
from dataclasses import dataclass

from retally.chain.connection import Chain
from retally.chain.staking import Role
from retally.protocol.encoding import Address, to_hex
from retally.protocol.evidence_file import period_start
from retally_verifier.drift import CROSSED, FREEZE_SECONDS, LEAST_OWNERS, grouped, has_drifted, log_wealth, may_freeze
from retally_verifier.records import Freeze, Pair, ReplayRow
from retally_verifier.store import Store

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PairState:
    """What is known of a pair's drift."""

    pair: Pair
    #: The largest log wealth of each owner against the bounds.
    wealths: dict[Address, float]
    frozen_until: int | None

    @property
    def crossed(self) -> list[Address]:
        """Owners whose margins lie beyond the bounds."""
        return sorted(owner for owner, wealth in self.wealths.items() if wealth >= CROSSED)


def states_of(store: Store, now: int) -> list[PairState]:
    """Every pair that was replayed in this period; after a freeze its evidence starts anew."""
    ends: dict[Pair, int] = {freeze.pair: freeze.until for freeze in store.freezes()}
    seen: dict[Pair, dict[Address, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in store.replays(period_start(now)):
        for pair in Pair.of_detail(row.detail):
            if row.time >= ends.get(pair, 0):
                seen[pair][row.owner].append(_drift(row))
    found = []
    for pair in {**dict.fromkeys(ends), **dict.fromkeys(seen)}:
        until = ends.get(pair)
        wealths = {owner: log_wealth(log_es) for owner, log_es in seen[pair].items()}
        found.append(PairState(pair, wealths, until if until is not None and now < until else None))
    return found


def _drift(row: ReplayRow) -> float:
    return float(row.detail.get("driftLogE", 0.0))


class DriftGuard:
    """Freezes a pair for a while once enough unrelated stake shows that its bounds are wrong."""

    def __init__(self, chain: Chain, store: Store, every_seconds: float = 0.0) -> None:
        self._chain = chain
        self._store = store
        self._every_seconds = every_seconds
        self._looked: float | None = None

    async def step(self) -> None:
        """Looks at every pair, now and then: it reads all replays of the period."""
        if self._looked is not None and time.monotonic() - self._looked < self._every_seconds:
            return
        self._looked = time.monotonic()
        now = self._chain.clock.now()
        last = {freeze.pair: freeze.until for freeze in self._store.freezes()}
        for state in states_of(self._store, now):
            if len(state.crossed) < LEAST_OWNERS or not may_freeze(now, last.get(state.pair)):
                continue
            if await self._has_drifted(state):
                self._freeze(state, now)

    async def _has_drifted(self, state: PairState) -> bool:
        staking, registry = self._chain.staking, self._chain.registry
        stakes = {owner: await staking.slashable(owner, Role.OPERATOR) for owner in state.wealths}
        # Only whether those that crossed are one party is asked: what the others are makes a freeze no likelier.
        pairs = itertools.combinations(state.crossed, 2)
        siblings = [(a, b) for a, b in pairs if await registry.are_siblings(a, b)]
        return has_drifted(grouped(state.wealths, stakes, siblings), await staking.minimum(Role.OPERATOR))

    def _freeze(self, state: PairState, now: int) -> None:
        pair = state.pair
        reason = f"margins of {len(state.crossed)} unrelated owners lie beyond the calibrated bounds"
        log.error(
            "model %s, node profile %s, verifier profile %s: %s; frozen for %d days: calibrate the pair anew",
            to_hex(pair.model_id),
            to_hex(pair.node_profile),
            to_hex(pair.verifier_profile),
            reason,
            FREEZE_SECONDS // 86_400,
        )
        self._store.put_freeze(Freeze(pair, now, now + FREEZE_SECONDS, reason))
