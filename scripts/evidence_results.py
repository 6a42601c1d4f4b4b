"""Everything that a measurement's shards say, as one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

import evidence_tables
from evidence_bootstrap import RATES, conviction, honest_owners
from evidence_jobs import CHEATS, CHUNK, UNSEEN
from evidence_pairs import (
    JUDGES,
    PRECISION,
    Pair,
    by_profiles,
    cheat_replays,
    honest_pairs,
    largest_noises,
    pair_of,
)
from evidence_plan import BATCHED, FEW, Plan
from evidence_shards import Floats, Replay
from evidence_tables import Fitted
from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import JOB_MISMATCH
from retally_verifier.calibration_quarters import PARTS, quartered_log_es

#: Owners of the bootstrap of cheats.
CHEATING_OWNERS = 400
#: What of the honest jobs makes the tables that show how power grows with them.
SHARES = (0.125, 0.25, 0.5, 1.0)

#: One table for each quarter, made from the three others.
Tables = tuple[Fitted, ...]


class Fitting:
    """Makes tables; what all of them need is read once."""

    def __init__(self, plan: Plan) -> None:
        self._noises = {is_narrow: largest_noises(plan, is_narrow=is_narrow) for is_narrow in (False, True)}
        self._cheats = {
            kind: {
                cheat: [row.margins for row in rows]
                for cheat in CHEATS
                if cheat not in UNSEEN and (rows := cheat_replays(plan, cheat, judge, for_fit=True))
            }
            for kind, judge in JUDGES.items()
        }

    def tables(self, pairs: Sequence[Pair], kind: str, share: float = 1.0) -> Tables:
        """The tables for these pairs, from a share of their jobs; alternatives are of that kind of kernels."""
        return tuple(self._table(pairs, kind, quarter, share) for quarter in range(PARTS))

    def _table(self, pairs: Sequence[Pair], kind: str, quarter: int, share: float) -> Fitted:
        """One of them, with the envelope over their profiles.

        Batch sizes of one engine are pooled: an honest node changes its own from moment to moment. The second replay of
        a job by the same engine is no second job, so it takes no part.
        """
        honest: dict[str, list[Floats]] = {}
        for profiles, alike in by_profiles(pairs).items():
            jobs = [row.margins for pair in alike if pair.verifier != FEW for row in pair.without(quarter)]
            honest[profiles] = jobs[: round(len(jobs) * share)]
        return evidence_tables.fit(honest, self._cheats[kind], self._noises[kind == PRECISION][quarter])


@dataclass(slots=True)
class Results:
    """What was measured; log e in nats."""

    #: By the profiles of node and verifier, as calibrations are.
    tables: dict[str, Tables]
    #: By kind: one table for all pairs of profiles together.
    envelopes: dict[str, Tables]
    pairs: list[Pair]
    #: By kind of kernels: every audit's log e under its own pair's table.
    honest: dict[str, Floats]
    #: By kind and cheat: each job's log e under the table of the pair that the cheat claims.
    cheats: dict[str, dict[str, Floats]]
    #: By kind and cheat: the replays behind them.
    behind: dict[str, dict[str, list[Replay]]]
    #: By share of the honest jobs: what the pair of other precision, which cheats claim, would have for a table.
    fewer: dict[float, Tables]

    def of_kind(self, kind: str) -> list[Pair]:
        """The honest pairs of a kind."""
        return [pair for pair in self.pairs if pair.kind == kind]


def results(plan: Plan) -> Results:
    """Tables from three quarters each, evidence of the fourth."""
    pairs, fitting = honest_pairs(plan), Fitting(plan)
    alike = by_profiles(pairs)
    tables = {profiles: fitting.tables(each, each[0].kind) for profiles, each in alike.items()}
    kinds: dict[str, list[Pair]] = {kind: [pair for pair in pairs if pair.kind == kind] for kind in JUDGES}
    envelopes = {kind: fitting.tables(each, kind) for kind, each in kinds.items()}
    honest = {
        kind: np.concatenate([judged_pair(pair, tables[pair.profiles]) for pair in each])
        for kind, each in kinds.items()
    }
    claimed = alike[pair_of(BATCHED, JUDGES[PRECISION]).profiles]
    fewer = {share: fitting.tables(claimed, PRECISION, share) for share in SHARES}
    found = Results(tables, envelopes, pairs, honest, {k: {} for k in JUDGES}, {k: {} for k in JUDGES}, fewer)
    for kind, cheat in ((kind, cheat) for kind in JUDGES for cheat in CHEATS):
        rows = cheat_replays(plan, cheat, JUDGES[kind], for_fit=False)
        if rows:
            found.cheats[kind][cheat] = judged(rows, claimed_tables(found, kind))
            found.behind[kind][cheat] = rows
    return found


def claimed_tables(found: Results, kind: str) -> Tables:
    """The tables by which a cheat is judged: those of vLLM in float32, which it claims to be."""
    return found.tables[pair_of(BATCHED, JUDGES[kind]).profiles]


def judged_pair(pair: Pair, tables: Tables) -> Floats:
    """log e of each honest job, under the table that it took no part in."""
    parts = [[row.margins for row in rows] for rows in pair.quarters]
    return quartered_log_es(parts, [fitted.table for fitted in tables])


def judged(
    rows: Sequence[Replay], tables: Tables, of: Callable[[Fitted], MarginTable] = lambda each: each.table
) -> Floats:
    """log e of each job of a cheat, under one of the tables after the other."""
    found = np.zeros(len(rows))
    for quarter, fitted in enumerate(tables):
        found[quarter::PARTS] = log_es_of(rows[quarter::PARTS], of(fitted))
    return found


def log_es_of(rows: Sequence[Replay], table: MarginTable) -> Floats:
    """log e of each job under one table."""
    return evidence_tables.log_es([row.margins for row in rows], table)


def power(log_es: Floats) -> float:
    """The share of jobs that are a mismatch by themselves."""
    return round(float((log_es >= JOB_MISMATCH).mean()), 4)


def pair_rows(found: Results) -> Iterator[dict[str, object]]:
    """One line for each honest pair."""
    for pair in found.pairs:
        margins = np.concatenate([row.margins for row in pair.jobs])
        log_es = judged_pair(pair, found.tables[pair.profiles])
        yield {
            "node": pair.node.name,
            "verifier": pair.verifier.name,
            "kernels": pair.kind,
            "audits": len(pair.jobs),
            "tokens": len(margins),
            "positiveTokens": int((margins > 0).sum()),
            "positiveJobs": sum(bool((row.margins > 0).any()) for row in pair.jobs),
            "largestMargin": round(float(margins.max()), 6),
            "largestLogE": round(float(log_es.max()), 3),
        }


def honest_rows(found: Results, owners: int) -> Iterator[dict[str, object]]:
    """What honest jobs and owners reach under each table."""
    for kind, log_es in found.honest.items():
        crowd = honest_owners(log_es, owners, seed=1)
        under_envelope = [judged_pair(pair, found.envelopes[kind]) for pair in found.of_kind(kind)]
        yield {
            "kernels": kind,
            "audits": len(log_es),
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
        tables = claimed_tables(found, kind)
        for cheat, log_es in cheats.items():
            rows = found.behind[kind][cheat]
            margins = np.concatenate([row.margins for row in rows])
            without = judged(rows, tables, lambda each: each.without_laws)
            yield {
                "cheat": cheat,
                "kernels": kind,
                "inAlternatives": cheat not in UNSEEN,
                "jobs": len(log_es),
                "meanTokens": round(len(margins) / len(rows), 1),
                "positiveShare": round(float((margins > 0).mean()), 5),
                "power": power(log_es),
                # The first shard of those that are reported was in view when the rule was made.
                "powerOfLater": power(log_es[CHUNK:]) if len(log_es) > CHUNK else None,
                "powerUnderEnvelope": power(judged(rows, found.envelopes[kind])),
                "medianLogE": round(float(np.median(log_es)), 2),
                "powerUnderSquare": power(judged(rows, tables, lambda each: each.under_square)),
                "medianLogEWithoutLaws": round(float(np.median(without)), 2),
                "convicted": [asdict(conviction(log_es, rate, CHEATING_OWNERS, seed=2)) for rate in RATES],
            }


def growth_rows(found: Results) -> Iterator[dict[str, object]]:
    """How power where one side computes in bfloat16 grows with the honest jobs that make the table."""
    claimed = [pair for pair in found.pairs if pair.profiles == pair_of(BATCHED, JUDGES[PRECISION]).profiles]
    jobs = sum(len(pair.without(0)) for pair in claimed)
    for share, tables in found.fewer.items():
        yield {
            "jobs": round(jobs * share),
            "power": {cheat: power(judged(rows, tables)) for cheat, rows in found.behind[PRECISION].items()},
        }


def table_rows(found: Results) -> dict[str, object]:
    """The tables themselves, by profiles, and the envelopes by kind; one for each quarter."""
    named = {**found.tables, **{f"envelope: {kind}": each for kind, each in found.envelopes.items()}}
    return {
        name: [
            {**each.table.to_json(), "alternative": each.alternative, "sparsity": each.sparsity, "miss": each.miss}
            for each in tables
        ]
        for name, tables in named.items()
    }
