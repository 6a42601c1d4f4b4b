"""Simulates routers over unequal nodes: our own choice, imported from the router, beside the rules of others.

One setting by the options, or with `--write` all that docs/ROUTING.md shows. `--check-real` runs a real router.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import routing_check
import routing_plot
from routing_ours import ABLATIONS
from routing_report import Row, figures, table, target_table, targets
from routing_trace import Trace, load, synthetic
from routing_world import RULES, Setup, simulate

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ROUTING.md"
DATA = ROOT / "docs" / "data" / "routing.json"
PLOT = ROOT / "docs" / "routing.svg"
POLICIES = (*RULES, "retally")
MAIN = ("p2c", "scorers", "scorers+own", "lmetric", "retally")
LOADS = (0.5, 1.0, 2.0, 3.0)


def main() -> int:
    """Run and report."""
    args = read_args()
    if args.check_real:
        return routing_check.main(as_json=args.json)
    if args.write:
        return write_page(args)
    setup = Setup(
        routers=args.routers,
        stale_seconds=args.stale,
        nodes=args.nodes,
        liars=args.liars,
        lie=args.lie,
        churn=args.churn,
        fails=args.fails,
    )
    rows = [row for factor in args.load for row in compare(args, setup, args.policies, factor)]
    for setting in dict.fromkeys(row.setting for row in rows):
        print(f"\n{setting}\n\n{table([row for row in rows if row.setting == setting])}")
    if args.json:
        print(json.dumps({"setup": asdict(setup), "rows": [row.to_json() for row in rows]}))
    return 0


def read_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--requests", type=int, default=6000, help="per run")
    add("--seeds", type=int, default=5, help="runs of each, with other nodes and other requests")
    add("--policies", nargs="+", default=list(POLICIES), metavar="POLICY", help=f"out of {', '.join(POLICIES)}, "
        "'retally: patient', 'retally: eager', 'retally: no learning', …")  # fmt: skip
    add("--trace", default="", metavar="FORMAT:PATH", help="a published trace: mooncake, azure or burstgpt")
    add("--load", type=float, nargs="+", default=[1.0], help="times the usual arrivals")
    add("--routers", type=int, default=2)
    add("--stale", type=float, default=0.5, help="seconds between two readings of the nodes")
    add("--nodes", type=int, default=16)
    add("--liars", type=int, default=2)
    add("--lie", type=float, default=3.0, help="how many times their speed liars declare")
    add("--churn", type=float, default=0.0, help="times an hour that a node is gone for a minute")
    add("--fails", type=float, default=1.0, help="times the usual failures")
    add("--json", action="store_true", help="one object on the last line")
    add("--write", action="store_true", help="run everything and fill docs/ROUTING.md")
    add("--check-real", action="store_true", help="the simulator against a real router over real HTTP")
    return parser.parse_args()


def compare(
    args: argparse.Namespace, setup: Setup, policies: Iterable[str], factor: float, name: str = ""
) -> list[Row]:
    """The policies on the same seeds."""
    setting = name or f"load {factor:g}, {setup.routers} routers, views {setup.stale_seconds:g} s old"
    rows = []
    for policy in policies:
        runs = []
        for seed in range(1, args.seeds + 1):
            began = time.monotonic()
            world = simulate(trace_of(args, seed).at_load(factor), policy, replace(setup, seed=seed))
            runs.append(figures(world))
            print(f"{setting}: {policy}, seed {seed}: {time.monotonic() - began:.1f} s", file=sys.stderr)
        rows.append(Row(setting, policy, runs))
    return rows


def trace_of(args: argparse.Namespace, seed: int) -> Trace:
    """The requests of one run; a published trace is the same for every seed, the nodes differ."""
    return load(args.trace, args.requests) if args.trace else synthetic(args.requests, seed)


def write_page(args: argparse.Namespace) -> int:
    """All settings of the page, its tables, its plot and the data behind them."""
    usual, stale = Setup(), Setup(routers=4, stale_seconds=5.0)
    tables: dict[str, str] = {}
    found: dict[str, Any] = {"requests": args.requests, "seeds": args.seeds, "rows": []}
    for key, setup in (("usual", usual), ("stale", stale)):
        rows = compare(args, setup, POLICIES, 1.0, key)
        aims = targets({row.policy: row for row in rows})
        tables[key], tables[f"{key} aims"] = table(rows), target_table(aims)
        found["rows"] += [row.to_json() for row in rows]
        found[f"{key} aims"] = [{**asdict(aim), "verdict": aim.verdict} for aim in aims]
    args.seeds = max(1, args.seeds - 2)
    terms = ["retally", "retally: patient", "retally: eager", *(f"retally: {term}" for term in ABLATIONS)]
    rest = {
        "terms": compare(args, stale, terms, 1.0, "terms"),
        "no liars": compare(args, replace(usual, liars=0), MAIN, 1.0, "no liars"),
        "four liars": compare(args, replace(usual, liars=4), MAIN, 1.0, "four liars"),
        "churn": compare(args, replace(usual, churn=20.0), MAIN, 1.0, "churn"),
        "eight routers": compare(args, replace(stale, routers=8), MAIN, 1.0, "eight routers"),
    }
    sweep = [(factor, row) for factor in LOADS for row in compare(args, usual, MAIN, factor)]
    tables |= {key: table(rows) for key, rows in rest.items()}
    tables["sweep"] = sweep_table(sweep)
    found["rows"] += [row.to_json() for rows in (*rest.values(), [row for _, row in sweep]) for row in rows]
    routing_plot.write(PLOT, sweep)
    DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    if args.json:
        print(json.dumps(found))
    return 0


def sweep_table(sweep: Sequence[tuple[float, Row]]) -> str:
    """TTFT p99 and price by load."""
    loads = sorted({factor for factor, _ in sweep})
    lines = ["| policy | " + " | ".join(f"load {factor:g}" for factor in loads) + " |", "|---" * (len(loads) + 1) + "|"]
    for policy in dict.fromkeys(row.policy for _, row in sweep):
        mine = {factor: row for factor, row in sweep if row.policy == policy}
        cells = [f"{mine[at].mean('ttft_p99'):.2f} s, ${mine[at].mean('price'):.3f}" for at in loads]
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its two marks."""
    for key, text in tables.items():
        start, end = f"<!-- {key} -->\n", f"<!-- end of {key} -->"
        before, opened, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise SystemExit(f"docs/ROUTING.md lacks the marks of {key!r}: {start.strip()} and {end}")
        page = f"{before}{start}{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    sys.exit(main())
