"""Everything that a measurement's shards say, as one object."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

import evidence_tables
from evidence_bootstrap import RATES, conviction, honest_owners
from evidence_jobs import CHEATS, UNSEEN
from evidence_plan import (
    BATCHED,
    FEW,
    REFERENCE,
    REFERENCE_NARROW,
    VERIFIERS,
    Batch,
    Plan,
    SetUp,
)
from evidence_shards import Floats, Replay
from evidence_tables import Fitted
from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import JOB_MISMATCH

#: Node and verifier run vLLM in float32; one of them runs another library in float32; one of them runs bfloat16.
SAME, LIBRARY, PRECISION = "same", "other library", "other precision"
#: Who judges the cheats, which run vLLM in float32.
JUDGES = {SAME: BATCHED, LIBRARY: REFERENCE, PRECISION: REFERENCE_NARROW}
#: Owners of the bootstrap of cheats.
CHEATING_OWNERS = 400


def kind_of(node: SetUp, verifier: SetUp) -> str:
    """Which table judges a pair."""
    engines = (node.engine, verifier.engine)
    if any(engine.dtype != "float32" for engine in engines):
        return PRECISION
    return SAME if all(engine.library == "vllm" for engine in engines) else LIBRARY


@dataclass(slots=True)
class Pair:
    """Honest jobs of one node, replayed by one verifier."""

    node: SetUp
    verifier: SetUp
    kind: str
    calibration: list[Replay]
    held_out: list[Replay]


def honest_pairs(plan: Plan) -> list[Pair]:
    """All pairs with the jobs that were replayed; the lower seeds of each shard calibrate, whoever replays them."""
    found: dict[tuple[SetUp, SetUp], Pair] = {}
    for batch in plan.batches():
        if batch.cheat:
            continue
        for verifier in plan.verifiers(batch):
            rows = replays(plan, batch, verifier)
            if not rows:
                continue
            key = (batch.node, verifier)
            pair = found.setdefault(key, Pair(*key, kind_of(batch.node, verifier), [], []))
            for is_calibrating, row in zip(halves(plan, batch), rows, strict=True):
                (pair.calibration if is_calibrating else pair.held_out).append(row)
    return list(found.values())


def halves(plan: Plan, batch: Batch) -> list[bool]:
    """Which jobs of an honest batch make tables."""
    seeds = [job.seed for job in plan.jobs(batch)]
    middle = sorted(seeds)[len(seeds) // 2]
    return [seed < middle for seed in seeds]


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


def profiles_of(pair: Pair) -> str:
    """What a table belongs to: the profiles of node and verifier, whatever their batches are."""
    return " > ".join(f"{each.engine.library} {each.engine.dtype}" for each in (pair.node, pair.verifier))


def fitted(plan: Plan, pairs: Sequence[Pair], kind: str) -> Fitted:
    """One table for these pairs, with the envelope over their profiles; alternatives are of that kind of kernels.

    Batch sizes of one engine are pooled: an honest node changes its own from moment to moment. The second replay of a
    job by the same engine is no second job, so it takes no part.
    """
    honest: dict[str, list[Floats]] = {}
    for pair in pairs:
        if pair.verifier != FEW:
            honest.setdefault(profiles_of(pair), []).extend(row.margins for row in pair.calibration)
    alternatives = {
        cheat: [row.margins for row in cheat_replays(plan, cheat, JUDGES[kind], for_fit=True)]
        for cheat in CHEATS
        if cheat not in UNSEEN
    }
    is_narrow = kind == PRECISION
    return evidence_tables.fit(
        honest, {cheat: jobs for cheat, jobs in alternatives.items() if jobs}, largest_noise(plan, is_narrow=is_narrow)
    )


def largest_noise(plan: Plan, *, is_narrow: bool) -> float:
    """The largest difference of a claimed token's logprob between two set-ups' replays, nats; of a narrow one, or none.

    From the halves that calibrate. A set-up's second replay of its own would differ by less than two libraries do.
    """
    gaps = [0.0]
    for one, two in itertools.combinations(VERIFIERS, 2):
        if is_narrow == any(each.engine.dtype != "float32" for each in (one, two)):
            gaps += [largest_gap(plan, batch, one, two) for batch in plan.batches() if not batch.cheat]
    # Nothing to compare: set-ups may be any distance apart.
    return max(gaps) or math.inf


def largest_gap(plan: Plan, batch: Batch, one: SetUp, two: SetUp) -> float:
    """The same for one batch and two set-ups; 0 where one of them did not replay it."""
    pairs = zip(replays(plan, batch, one), replays(plan, batch, two), halves(plan, batch), strict=False)
    rows = [np.abs(left.logprobs - right.logprobs) for left, right, is_calibrating in pairs if is_calibrating]
    return float(np.concatenate(rows).max()) if rows else 0.0


@dataclass(slots=True)
class Results:
    """What was measured; log e in nats."""

    #: By the profiles of node and verifier, as calibrations are.
    tables: dict[str, Fitted]
    #: By kind: one table for all pairs of profiles together.
    envelopes: dict[str, Fitted]
    pairs: list[Pair]
    #: By kind of kernels: every held-out audit's log e under its own pair's table.
    honest: dict[str, Floats]
    #: By kind and cheat: each job's log e under the table of the pair that the cheat claims.
    cheats: dict[str, dict[str, Floats]]
    #: By kind and cheat: the replays behind them.
    behind: dict[str, dict[str, list[Replay]]]

    def held_out(self, kind: str) -> list[Pair]:
        """The honest pairs of a kind."""
        return [pair for pair in self.pairs if pair.kind == kind]


def results(plan: Plan) -> Results:
    """Tables from the one half, evidence of the other."""
    pairs = honest_pairs(plan)
    alike: dict[str, list[Pair]] = {}
    for pair in pairs:
        alike.setdefault(profiles_of(pair), []).append(pair)
    tables = {profiles: fitted(plan, each, each[0].kind) for profiles, each in alike.items()}
    kinds: dict[str, list[Pair]] = {kind: [pair for pair in pairs if pair.kind == kind] for kind in JUDGES}
    envelopes = {kind: fitted(plan, each, kind) for kind, each in kinds.items()}
    honest = {
        kind: np.concatenate([judged(pair.held_out, tables[profiles_of(pair)]) for pair in each])
        for kind, each in kinds.items()
    }
    found = Results(tables, envelopes, pairs, honest, {kind: {} for kind in JUDGES}, {kind: {} for kind in JUDGES})
    for kind, cheat in ((kind, cheat) for kind in JUDGES for cheat in CHEATS):
        rows = cheat_replays(plan, cheat, JUDGES[kind], for_fit=False)
        if rows:
            found.cheats[kind][cheat] = judged(rows, claimed_table(found, kind))
            found.behind[kind][cheat] = rows
    return found


def claimed_table(found: Results, kind: str) -> Fitted:
    """The table by which a cheat is judged: that of vLLM in float32, which it claims to be."""
    return found.tables[profiles_of(Pair(BATCHED, JUDGES[kind], kind, [], []))]


def judged(rows: Sequence[Replay], table: Fitted) -> Floats:
    """log e of each job."""
    return under(rows, table.table)


def under(rows: Sequence[Replay], table: MarginTable) -> Floats:
    """The same under one of a fit's tables."""
    return evidence_tables.log_es([row.margins for row in rows], table)


def pair_rows(found: Results) -> Iterator[dict[str, object]]:
    """One line for each honest pair."""
    for pair in found.pairs:
        both = [*pair.calibration, *pair.held_out]
        margins = np.concatenate([row.margins for row in both])
        log_es = judged(pair.held_out, found.tables[profiles_of(pair)])
        yield {
            "node": pair.node.name,
            "verifier": pair.verifier.name,
            "kernels": pair.kind,
            "audits": len(both),
            "tokens": len(margins),
            "positiveTokens": int((margins > 0).sum()),
            "positiveJobs": sum(bool((row.margins > 0).any()) for row in both),
            "largestMargin": round(float(margins.max()), 6),
            "heldOut": len(log_es),
            "largestLogE": round(float(log_es.max()), 3),
        }


def honest_rows(found: Results, owners: int) -> Iterator[dict[str, object]]:
    """What honest jobs and owners reach under each table."""
    for kind, log_es in found.honest.items():
        crowd = honest_owners(log_es, owners, seed=1)
        under_envelope = [judged(pair.held_out, found.envelopes[kind]) for pair in found.held_out(kind)]
        yield {
            "kernels": kind,
            "heldOutAudits": len(log_es),
            "largestE": float(f"{np.exp(log_es.max()):.4g}"),
            "meanE": round(float(np.exp(log_es).mean()), 4),
            "mismatches": int((log_es >= JOB_MISMATCH).sum()),
            "largestEUnderEnvelope": float(f"{np.exp(np.concatenate(under_envelope).max()):.4g}"),
            "owners": crowd.owners,
            "auditsAnOwner": crowd.audits,
            "largestLogWealth": round(crowd.largest, 3),
            "ownersAt1e9": crowd.convicted,
        }


def cheat_rows(found: Results) -> Iterator[dict[str, object]]:
    """What each cheat's jobs and owners reach under each table."""
    for kind, cheats in found.cheats.items():
        for cheat, log_es in cheats.items():
            rows = found.behind[kind][cheat]
            margins = np.concatenate([row.margins for row in rows])
            yield {
                "cheat": cheat,
                "kernels": kind,
                "inAlternatives": cheat not in UNSEEN,
                "jobs": len(log_es),
                "meanTokens": round(len(margins) / len(rows), 1),
                "positiveShare": round(float((margins > 0).mean()), 5),
                "power": round(float((log_es >= JOB_MISMATCH).mean()), 4),
                "powerUnderEnvelope": round(float((judged(rows, found.envelopes[kind]) >= JOB_MISMATCH).mean()), 4),
                "medianLogE": round(float(np.median(log_es)), 2),
                "powerUnderSquare": round(
                    float((under(rows, claimed_table(found, kind).under_square) >= JOB_MISMATCH).mean()), 4
                ),
                "medianLogEWithoutLaws": round(
                    float(np.median(under(rows, claimed_table(found, kind).without_laws))), 2
                ),
                "convicted": [asdict(conviction(log_es, rate, CHEATING_OWNERS, seed=2)) for rate in RATES],
            }


def table_rows(found: Results) -> dict[str, object]:
    """The tables themselves, by profiles, and the envelopes by kind."""
    named = {**found.tables, **{f"envelope: {kind}": each for kind, each in found.envelopes.items()}}
    return {
        name: {**each.table.to_json(), "alternative": each.alternative, "sparsity": each.sparsity, "miss": each.miss}
        for name, each in named.items()
    }
