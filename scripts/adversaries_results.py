"""What was found out about each adversary: live results on disk, measured audits, profit; and the table of all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.adversaries.registry import ADVERSARIES, Adversary, Found

from retally.devnet.catalogue import CALIBRATIONS
from retally.devnet.tools import devnet_model_dir, repo_root

DATA = repo_root() / "docs" / "data"
LIARS = repo_root() / "tests" / "adversaries"
#: What weighs an answer: another rule or calibration may find what this one did not.
PROTOCOL = repo_root() / "sdk" / "retally" / "protocol"
WEIGHING = [PROTOCOL / f"{name}.py" for name in ("margins", "evidence", "calibration", "judgement")]
PUBLISHED = DATA / "adversaries.json"
DOLLARS = 1_000_000
#: The least stake, in the tables of scripts/economics.
STAKE = 1_000.0
TRIALS = 20


@dataclass(frozen=True, slots=True)
class Results:
    """Live results by adversary, each under a hash of what it depends on."""

    cache: Path
    published: Path = PUBLISHED

    def digest(self, adversary: Adversary) -> str:
        """Of what its result depends on: the lie's code, the model, how it is run, and what judges it."""
        entry = json.dumps({**asdict(adversary), "note": "", "economics": "", "evidence": ""}, sort_keys=True)
        # Those of all lies, and a program that is named after this one.
        own = LIARS.glob(f"{adversary.name.replace('-', '_')}*.py")
        sources = b"".join(path.read_bytes() for path in (*sorted(LIARS.glob("cheating_*.py")), *sorted(own)))
        manifest = (devnet_model_dir() / "manifest.json").read_bytes()
        weighed = [*WEIGHING, *sorted(CALIBRATIONS.glob("*.json"))] if adversary.found == Found.STATISTICAL else []
        judging = b"".join(path.read_bytes() for path in weighed)
        return hashlib.sha256(b"\x00".join((entry.encode(), sources, manifest, judging))).hexdigest()[:16]

    def path(self, adversary: Adversary) -> Path:
        """Where its result lies."""
        return self.cache / "results" / f"{adversary.name}-{self.digest(adversary)}.json"

    def read(self, adversary: Adversary) -> dict[str, Any] | None:
        """Its result, if it was run."""
        path = self.path(adversary)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def write(self, adversary: Adversary, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        path = self.path(adversary)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def economics(cache: Path) -> dict[str, Any]:
    """What scripts/economics says at the deployed parameters; kept by the hash of its sources and evidence."""
    scripts = sorted((repo_root() / "scripts").glob("economics*.py"))
    sources = [*scripts, DATA / "job_evidence.json", repo_root() / "sdk" / "retally" / "chain" / "parameters.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = cache / f"economics-{digest}.json"
    if not path.exists():
        command = [sys.executable, str(repo_root() / "scripts" / "economics.py"), "--json", "--trials", str(TRIALS)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(printed.stdout.strip().splitlines()[-1], encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def profit_of(adversary: Adversary, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Dollars beyond the honest profit: of the least stake, established, in a year; or a round of its own.

    `said` is empty where nobody asked for it: to simulate it takes minutes.
    """
    name, rate = adversary.economics, 1 / adversary.one_in
    for cell in said.get("cells", ()):
        is_it = (cell["cheat"], cell["stake"], cell["is_new"]) == (name, STAKE, False)
        if is_it and abs(cell["rate"] - rate) < 1e-9:
            return {"dollars": round(cell["profit"], 2), "round": "a year"}
    for other in said.get("others", ()):
        if other["name"] == name:
            return {"dollars": round(other["profits"][0], 4), "round": other["round"]}
    return None


def measured_of(adversary: Adversary) -> dict[str, Any] | None:
    """Audits until conviction of owners drawn from measured jobs, same kernels and, where worse, the worst ones."""
    if not adversary.evidence:
        return None
    said = json.loads((DATA / "evidence_results.json").read_text(encoding="utf-8"))
    found = {}
    for row in said["cheats"]:
        if row["cheat"] == adversary.evidence:
            rate = min(row["convicted"], key=lambda each: abs(each["rate"] - 1 / adversary.one_in))
            found[row["kernels"]] = {key: rate.get(key) for key in ("share", "median", "p95")}
    return found


def rows(results: Results, said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that is known of every adversary; what was published before, where it was not played since."""
    before = {row["name"]: row for row in json.loads(results.published.read_text(encoding="utf-8"))["adversaries"]}
    return [
        {
            "name": each.name,
            "party": each.party,
            "lie": each.lie,
            "found": each.found.value,
            "act": each.act.value,
            "blind": each.blind,
            "note": each.note,
            **_live_of(each, results, before.get(each.name, {})),
            "measured": measured_of(each),
            "profit": profit_of(each, said),
        }
        for each in ADVERSARIES
    ]


def _live_of(adversary: Adversary, results: Results, published: Mapping[str, Any]) -> dict[str, Any]:
    """Its play and the digest that it holds for: one that was published for another is marked as an earlier one."""
    digest, live = results.digest(adversary), results.read(adversary)
    if live is not None:
        return {"digest": digest, "live": live}
    if published.get("live") is None:
        return {"digest": None, "live": None}
    kept = {name: value for name, value in published["live"].items() if name != "earlier"}
    if published.get("digest") == digest:
        return {"digest": digest, "live": kept}
    return {"digest": published.get("digest"), "live": {**kept, "earlier": True}}


def markdown(found: Iterable[Mapping[str, Any]]) -> str:
    """The tables of docs/ADVERSARIES.md."""
    found = list(found)
    seen = [row for row in found if not row["blind"]]
    blind = [row for row in found if row["blind"]]
    parts = [
        ("Nodes, by evidence", [r for r in seen if r["party"] == "node" and r["found"] == Found.STATISTICAL]),
        ("Never seen by a calibration, an alternative or any tuning", blind),
        ("Nodes, by proof or cost", [r for r in seen if r["party"] == "node" and r["found"] != Found.STATISTICAL]),
        ("Verifiers, payers, routers, pairs", [r for r in seen if r["party"] != "node"]),
    ]
    return "\n\n".join(f"**{title}**\n\n{_table(part)}" for title, part in parts if part)


COLUMNS = ("adversary", "lie", "found", "live", "audits until conviction, measured", "profit, dollars")


def _table(part: Iterable[Mapping[str, Any]]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [
        (r["name"], _with_note(r), r["found"], _live(r), _audits(r["measured"]), _profit(r["profit"])) for r in part
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _with_note(row: Mapping[str, Any]) -> str:
    return f"{row['lie']} ({row['note']})" if row["note"] else str(row["lie"])


def _live(row: Mapping[str, Any]) -> str:
    return "not run" if row["live"] is None else summary(row["live"])


def _audits(measured: Mapping[str, Any] | None) -> str:
    if not measured:
        return "–"
    said: dict[str, list[str]] = {}
    for kernels, row in measured.items():
        never = not row["median"]
        said.setdefault("never" if never else f"{row['median']} ({row['p95']})", []).append(kernels)
    return "; ".join(text if len(said) == 1 else f"{text} {', '.join(kernels)}" for text, kernels in said.items())


def _profit(profit: Mapping[str, Any] | None) -> str:
    if not profit:
        return "–"
    dollars = profit["dollars"]
    return f"{dollars:+,.{2 if abs(dollars) >= 1 else 4}f} {profit['round']}"


def summary(live: Mapping[str, Any]) -> str:
    """One line of what happened live."""
    if live.get("earlier"):
        return f"{summary({**live, 'earlier': False})} (before the present rules or calibration)"
    if "outcome" in live:
        return str(live["outcome"])
    if not live.get("convicted"):
        seen = f", largest log e {max(live['logE']):+.1f}" if live.get("logE") else ""
        return f"**not convicted** after {live.get('points', live.get('audits', 0))} audits{seen}"
    what = f"slashed {live['slashed'] / DOLLARS:,.2f}, refunded {live['refunded'] / DOLLARS:,.6f}"
    if live["by"] == "court":
        return f"court, {live['audits']} audits, jury {len(live['votes'])}: {what}"
    return f"{live['by']}: {what}"
