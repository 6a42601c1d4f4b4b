"""Juries against a coalition of 30 % of the stake; `scripts/simulate_juries` runs it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from random import Random
from typing import Any

from scipy.stats import chisquare
from tests.contracts.court.cases import Case, opening
from tests.contracts.court.ledger import start_anvil
from tests.contracts.court.world import MATCH, MISMATCH, SALT, World

from jury_lots import Entry, draw
from jury_simulation import Trial, draw_all, founded, harness, rates, try_cases
from retally.protocol.encoding import keccak

MOST_FLIPPED, MOST_BLOCKED, LEAST_P = 0.005, 0.05, 0.001
SIZES = (3, 5, 7, 9, 11, 15)
TABLE_CASES = 500


def main() -> int:
    """Print what was found; fail where a bound is not held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--size", type=int, default=7, help="jurors of a first round")
    parser.add_argument("--owners", type=int, default=150, help="operators in the pool")
    parser.add_argument("--share", type=float, default=0.3, help="the coalition's share of the stake")
    parser.add_argument("--draws", type=int, default=10_000, help="cases with the contract's lots")
    parser.add_argument("--cases", type=int, default=200, help="cases wholly on the chain")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    process, url = start_anvil()
    try:
        report = simulate(url, options)
    finally:
        process.terminate()
        process.wait(timeout=10)
    for name, value in report.items():
        print(f"{name}: {value}")
    if options.json:
        print(json.dumps(report))
    return 1 if report["failures"] else 0


def simulate(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, on one chain."""
    started = time.monotonic()
    world, entries, coalition = founded(url, options.size, options.owners, options.share, Random(options.seed))
    drawn = by_lots(world, entries, coalition, options)
    drawn_seconds = time.monotonic() - started
    report: dict[str, Any] = {
        "jurySize": options.size,
        "coalition": round(share_of(coalition, entries), 4),
        "draws": drawn,
        "onChain": on_chain(world, entries, coalition, options),
        "table": {size: table_row(entries, coalition, size, options.seed) for size in SIZES},
        "seconds": {"draws": round(drawn_seconds), "all": round(time.monotonic() - started)},
    }
    report["failures"] = failures(report)
    return report


def by_lots(
    world: World, entries: Sequence[Entry], coalition: Collection[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Cases whose juries the contract draws; the twin must draw the first ones too."""
    drawer = harness(world)
    trials = [Trial(keccak(b"draw %d" % n), options.size) for n in range(options.draws)]
    sample = [Trial(trial.seed, trial.wanted) for trial in trials[: min(300, len(trials))]]
    first = try_cases(trials, coalition, lambda part, size: draw_all(world, drawer, part, size))
    try_cases(sample, coalition, lambda part, size: [draw(t.seed, size, entries, t.sat) for t in part])
    counts = Counter(first)
    able = [entry for entry in entries if entry.worth]
    total = sum(entry.worth for entry in able)
    expected = [len(first) * entry.worth / total for entry in able]
    fit = float(chisquare([counts[entry.owner] for entry in able], expected).pvalue)
    agree = all(ours.sat == theirs.sat for ours, theirs in zip(trials, sample, strict=False))
    return {"cases": len(trials), **rates(trials), "stakeFitP": round(fit, 4), "twinAgrees": agree}


def on_chain(
    world: World, entries: Sequence[Entry], coalition: Collection[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Cases from opening to execution, each on the same chain state; the court must rule as the rules say."""
    started = time.monotonic()
    ruled: list[Trial] = []
    wrong = 0
    for number in range(options.cases):
        with world.ledger.reverted():
            trial = Trial(b"", options.size)
            wrong += not hold_case(world, trial, coalition, number)
            ruled.append(trial)
    found: dict[str, Any] = {"cases": len(ruled), **(rates(ruled) if ruled else {}), "ruledOtherwise": wrong}
    return {**found, "jurors": sum(len(trial.sat) for trial in ruled), "seconds": round(time.monotonic() - started)}


def hold_case(world: World, trial: Trial, coalition: Collection[str], number: int) -> bool:
    """One case on the chain; whether its verdict is the one of the rules, and nothing is left in the court."""
    ledger, court = world.ledger, world.ledger.court.functions
    entries = [(1, keccak(b"shown %d" % number), world.payer.address, 1)]
    opened = ledger.send(opening(world, entries), world.challenger)
    case = Case(world, opened.event("CaseOpened")["caseId"], [], entries)
    while not trial.closed:
        round_ = case.record[2]
        jury = case.draw()
        vote_all(world, case.id, round_, [(juror, MATCH if juror in coalition else MISMATCH) for juror in jury])
        case.decide()
        appeals = trial.appeals
        trial.hear(jury, coalition)
        if trial.appeals > appeals:
            ledger.send(court.appeal(case.id), world.friend.address)
    ledger.send(court.execute(case.id, case.shown), world.outsider)
    people = {*world.owners, *trial.sat, *world.verifiers, world.friend.address, world.outsider}
    owed = sum(court.credit(person).call() for person in people)
    return bool(case.record[4] == trial.verdict and owed == ledger.balance(ledger.court.address))


def vote_all(world: World, case_id: int, round_: int, votes: Sequence[tuple[str, int]]) -> None:
    """All commit, then all reveal; many transactions in one request each."""
    ledger, court = world.ledger, world.ledger.court.functions
    commits, reveals = [], []
    for seat, (juror, verdict) in enumerate(votes):
        hashed = world.vote_hash(case_id, round_, juror, verdict)
        commits.append((court.commitVote(case_id, round_, seat, hashed), juror))
        reveals.append((court.revealVote(case_id, round_, seat, verdict, 0, SALT), juror))
    ledger.send_all(commits)
    ledger.send(court.closeCommits(case_id), world.outsider)
    ledger.send_all(reveals)


def table_row(entries: Sequence[Entry], coalition: Collection[str], size: int, seed: int) -> dict[str, float]:
    """What another size of the first jury would give, by the twin's lots."""
    trials = [Trial(keccak(b"table %d %d %d" % (seed, size, n)), size) for n in range(TABLE_CASES)]
    try_cases(trials, coalition, lambda part, wanted: [draw(t.seed, wanted, entries, t.sat) for t in part])
    return rates(trials)


def share_of(coalition: Collection[str], entries: Sequence[Entry]) -> float:
    """The part of the stake that may sit which a coalition holds."""
    return sum(e.worth for e in entries if e.owner in coalition) / sum(e.worth for e in entries)


def failures(report: dict[str, Any]) -> list[str]:
    """Which bounds are not held."""
    drawn, chain = report["draws"], report["onChain"]
    found = [
        (drawn["flipped"] > MOST_FLIPPED, "the coalition flips too many verdicts"),
        (drawn["blocked"] > MOST_BLOCKED, "the coalition blocks too many verdicts"),
        (drawn["stakeFitP"] <= LEAST_P, "seats do not follow stakes"),
        (not drawn["twinAgrees"], "the contract's lots are not those of the rules"),
        (chain["ruledOtherwise"] > 0, "a case on the chain ended otherwise than by the rules"),
    ]
    return [text for failed, text in found if failed]


if __name__ == "__main__":
    sys.exit(main())
