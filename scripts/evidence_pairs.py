"""Honest pairs and cheats as shards hold them, the honest in quarters: three make a table, which judges the fourth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evidence_plan import BATCHED, REFERENCE, REFERENCE_NARROW, VERIFIERS, Batch, Plan, SetUp
from evidence_shards import Replay
from retally_verifier.calibration_quarters import PARTS, largest_of, others, quarters_of

#: Node and verifier run vLLM in float32; one of them runs another library in float32; one of them runs bfloat16.
SAME, LIBRARY, PRECISION = "same", "other library", "other precision"
#: Who judges the cheats, which run vLLM in float32.
JUDGES = {SAME: BATCHED, LIBRARY: REFERENCE, PRECISION: REFERENCE_NARROW}


def kind_of(node: SetUp, verifier: SetUp) -> str:
    """Which table judges a pair."""
    engines = (node.engine, verifier.engine)
    if any(engine.dtype != "float32" for engine in engines):
        return PRECISION
    return SAME if all(engine.library == "vllm" for engine in engines) else LIBRARY


@dataclass(slots=True)
class Pair:
    """Honest jobs of one node, replayed by one verifier, by quarter."""

    node: SetUp
    verifier: SetUp
    kind: str
    quarters: tuple[list[Replay], ...]

    @property
    def profiles(self) -> str:
        """What a table belongs to: the profiles of node and verifier, whatever their batches are."""
        return " > ".join(f"{each.engine.library} {each.engine.dtype}" for each in (self.node, self.verifier))

    @property
    def jobs(self) -> list[Replay]:
        """All of them."""
        return [row for quarter in self.quarters for row in quarter]

    def without(self, quarter: int) -> list[Replay]:
        """What makes the table that judges a quarter."""
        return others(self.quarters, quarter)


def pair_of(node: SetUp, verifier: SetUp) -> Pair:
    """A pair without jobs."""
    return Pair(node, verifier, kind_of(node, verifier), tuple([] for _ in range(PARTS)))


def honest_pairs(plan: Plan) -> list[Pair]:
    """All pairs with the jobs that were replayed."""
    found: dict[tuple[SetUp, SetUp], Pair] = {}
    for batch in plan.batches():
        for verifier in () if batch.cheat else plan.verifiers(batch):
            rows = replays(plan, batch, verifier)
            if rows:
                pair = found.setdefault((batch.node, verifier), pair_of(batch.node, verifier))
                for quarter, row in zip(quarters(plan, batch), rows, strict=True):
                    pair.quarters[quarter].append(row)
    return list(found.values())


def quarters(plan: Plan, batch: Batch) -> list[int]:
    """Which quarter each job of an honest batch belongs to."""
    return quarters_of([job.seed for job in plan.jobs(batch)])


def replays(plan: Plan, batch: Batch, verifier: SetUp) -> list[Replay]:
    """One shard's replays, nothing if it is not there."""
    answers = plan.answer_path(batch)
    if answers is None:
        return []
    path = plan.replay_path(answers, verifier)
    return plan.shards.load_replays(path) if path.exists() else []


def cheat_replays(plan: Plan, cheat: str, verifier: SetUp, *, for_fit: bool) -> list[Replay]:
    """A cheat's replays: those for alternatives, or those that are reported."""
    found: list[Replay] = []
    for batch in plan.cheated(cheat):
        if not batch.is_base and (batch.chunk == 0) == for_fit:
            found += replays(plan, batch, verifier)
    return found


def largest_noises(plan: Plan, *, is_narrow: bool) -> list[float]:
    """For each quarter the largest difference of a claimed token's logprob between two replays of the others, nats.

    Of a narrow set-up and another, or of two wide ones. A set-up's second replay of its own would differ by less than
    two libraries do.
    """
    largest = np.zeros(PARTS)
    for one, two in itertools.combinations(VERIFIERS, 2):
        if is_narrow == any(each.engine.dtype != "float32" for each in (one, two)):
            for batch in plan.batches():
                if not batch.cheat:
                    largest = np.maximum(largest, _gaps(plan, batch, one, two))
    # Nothing to compare: set-ups may be any distance apart.
    return [largest_of(others([[each] for each in largest.tolist()], quarter)) or math.inf for quarter in range(PARTS)]


def _gaps(plan: Plan, batch: Batch, one: SetUp, two: SetUp) -> list[float]:
    """The same by quarter for one batch and two set-ups; 0 where one of them did not replay it."""
    gaps = [0.0] * PARTS
    both = zip(replays(plan, batch, one), replays(plan, batch, two), quarters(plan, batch), strict=False)
    for left, right, quarter in both:
        gaps[quarter] = max(gaps[quarter], float(np.abs(left.logprobs - right.logprobs).max()))
    return gaps


def by_profiles(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs that share a table."""
    alike: dict[str, list[Pair]] = {}
    for pair in pairs:
        alike.setdefault(pair.profiles, []).append(pair)
    return alike
