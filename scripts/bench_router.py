"""Prints what routers cost: processor time per request and per token, added time to the first token, memory.

Usage: scripts/bench_router [--rounds N] [--seconds S] [--only NAME,…] [--runs KIND,…] [--waves N] [--write] [--json]

Every router runs on one core; the load generator, the engine without a model (peers) and the nodes without a model
(ours) share another. Rounds are interleaved, figures are medians. What comes through retally's router is checked
against PROTOCOL.md. The peers are installed on first use into .cache/bench_router.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_router_case import FAST, HELD, NAMES, PACED, PLAIN, QUIET, RUNS, Bench
from bench_router_jobs import Work
from bench_router_market import payer_key
from bench_router_process import Failed
from bench_router_report import table_of, write_report
from retally.protocol.eip712 import keccak, recover

ROOT = Path(__file__).resolve().parent.parent
WORKS = {work.name: work for work in (PLAIN, FAST, PACED, QUIET, HELD)}

Rounds = dict[str, list[dict[str, Any]]]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every router")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each kind of load")
    parser.add_argument("--only", default="", help=f"some of: {', '.join(NAMES)}; parts of names will do")
    parser.add_argument("--runs", default=",".join(RUNS), help="kinds of load")
    parser.add_argument("--waves", type=int, default=1, help="waves of 1,000 streams after the first, kind `held`")
    parser.add_argument("--write", action="store_true", help="table and plot into docs")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    asked = parser.parse_args()
    wanted = [part.strip() for part in asked.only.split(",") if part.strip()]
    names = [name for name in NAMES if not wanted or any(part in name for part in wanted)]
    works = tuple(WORKS[name] for name in asked.runs.split(","))
    if not names:
        parser.error(f"--only {asked.only} names no router; there are {', '.join(NAMES)}")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the router, one for the load")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    try:
        with tempfile.TemporaryDirectory(prefix="router-bench-") as folder:
            bench = Bench(ROOT / ".cache" / "bench_router", Path(folder), asked.seconds, asked.waves)
            rounds = measure(bench, ["direct", *names], works, asked.rounds)
    except Failed as error:
        print(f"bench_router: {error}", file=sys.stderr)
        return 1
    found = {name: summary(results) for name, results in rounds.items()}
    print(table_of(found))
    if asked.write:
        write_report(ROOT / "docs", found, asked.rounds)
    if asked.json:
        shown = {"rounds": asked.rounds, "seconds": asked.seconds, "curve": curve_us(), "routers": found}
        print(json.dumps(shown))
    return 0


def measure(bench: Bench, names: list[str], works: tuple[Work, ...], rounds: int) -> Rounds:
    """All routers, round by round; each round begins with another one. Streams are held in the first round only."""
    found: Rounds = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(bench.run(name, works if number == 0 else tuple(w for w in works if w is not HELD)))
    return found


def curve_us(count: int = 2000) -> dict[str, float]:
    """Processor time of one signature and of one check on this machine."""
    key, digest = payer_key(), keccak(b"bench")
    signature = key.sign(digest)
    took = {}
    for name, work in (("sign", lambda: key.sign(digest)), ("recover", lambda: recover(digest, signature))):
        began = time.process_time()
        for _ in range(count):
            work()
        took[name] = round(1e6 * (time.process_time() - began) / count, 1)
    return took


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; errors are added up."""
    merged: dict[str, Any] = {"version": results[0]["version"]}
    if "checked" in results[0]:
        merged["checked"] = {key: sum(one["checked"][key] for one in results) for key in results[0]["checked"]}
    for name in (name for name in WORKS if name in results[0]):
        runs = [one[name] for one in results if name in one]
        numbers = {key for key, value in runs[0].items() if isinstance(value, int | float)}
        merged[name] = {key: statistics.median(run[key] for run in runs) for key in sorted(numbers)}
        merged[name]["errors"] = sum(run["errors"] for run in runs)
        if "waves" in runs[0]:
            merged[name]["waves"] = runs[0]["waves"]
        merged[name]["routerUsRange"] = [min(run["routerUs"] for run in runs), max(run["routerUs"] for run in runs)]
    return merged


if __name__ == "__main__":
    sys.exit(main())
