"""Prints what the contracts' operations cost, beside the targets, the peers on the same machine, and the floor.

Usage: scripts/gas [--tables] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from gas_operations import JOBS, Measured, chain, court, money, settled_jobs


@dataclass(frozen=True)
class Yardstick:
    """What an operation is measured by. `floor` is the least that a prototype without our safeguards came to."""

    target: int | None
    floor: int | None
    peers: str
    distance: str


COMMIT = "a new word for the commit (22.1k), exposure and audit level read from three contracts, an event with ranges"
YARDSTICKS: Mapping[str, Yardstick] = {
    "collect one channel": Yardstick(
        110_000,
        52_743,
        "Graph Horizon 167k, TAP 105k, 0G 82k",
        f"the floor pays a voucher out; this pays also for {COMMIT}; no peer commits to receipts",
    ),
    "batch of 10 from 10 payers, each": Yardstick(
        32_000, 14_864, "0G 52k", "a tenth of the commit (8k), an account for each payer (6k)"
    ),
    "batch of 10 from one payer and signer, each": Yardstick(32_000, 14_864, "0G 52k", "a tenth of the commit (8k)"),
    "batch of 100 from one payer and session signer, each": Yardstick(
        13_500,
        9_900,
        "none so large",
        "lane, signer and covered in calldata (0.6k), the range in the event (0.6k), a hundredth of the commit (0.9k), "
        "arithmetic of funds and cap (1.8k)",
    ),
    "batch of 100 from one payer signing itself, each": Yardstick(13_500, 9_900, "none so large", "as above"),
    "batch of 100 from 100 payers, each": Yardstick(
        26_000, 9_900, "none so large", "as above, and an account to read and write for each payer (6k)"
    ),
    "deposit, new account": Yardstick(None, 83_546, "prototype 83.5k", "a new slot; asking for a pause (2.2k)"),
    "deposit top-up, allowance for it alone": Yardstick(
        52_000, 49_346, "prototype 49.3k", "as `retally deposit` does it; asking for a pause (2.2k)"
    ),
    "deposit top-up, unlimited allowance": Yardstick(
        None, 49_346, "prototype 49.3k", "the allowance is only read; asking for a pause (2.2k)"
    ),
    "deposit top-up, part of the allowance": Yardstick(
        None, 49_346, "prototype 49.3k", "the dearest way: the allowance is written (2.9k); asking for a pause (2.2k)"
    ),
    "stake": Yardstick(85_000, 79_914, "prototype 80k", "one new slot; asking for a pause (2.2k)"),
    "proof of conflicting receipts": Yardstick(
        85_000, 67_000, "prototype 67k", "the claim made before it; records only"
    ),
    "punishment of proven receipts": Yardstick(
        None, 104_000, "prototype 104k to resolve and slash", "the first slash ever: three new slots (51k)"
    ),
    "case open": Yardstick(190_000, 160_121, "prototype 160k", "bond, fee and tips; the lock; a hash of what is shown"),
    "vote commit": Yardstick(52_000, 49_963, "prototype 50k", "the dearest of the jury's"),
    "vote reveal": Yardstick(35_000, 30_114, "prototype 30k", "the dearest of the jury's"),
    f"{JOBS:,} jobs of one payer in one transaction, each": Yardstick(
        150, 55, "151,830 if each settled on chain", "one channel: the whole collect, divided"
    ),
}


def main() -> None:
    """Measure, print, and fail if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="what each collect pays for, slot by slot")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    asked = parser.parse_args()
    found: dict[str, Measured] = {}
    for measure in (money, court, settled_jobs):
        with chain() as url:
            found |= measure(url)
    for name, measured in found.items():
        print(line(name, measured))
    if asked.tables:
        print_tables(found)
    if asked.json:
        print(json.dumps({"operations": [described(name, each) for name, each in found.items()]}))
    if any(is_missed(name, measured) for name, measured in found.items()):
        sys.exit(1)


def is_missed(name: str, measured: Measured) -> bool:
    """Whether it costs more than its target."""
    target = YARDSTICKS[name].target if name in YARDSTICKS else None
    return target is not None and measured.gas > target


def line(name: str, measured: Measured) -> str:
    """One line for people."""
    yardstick = YARDSTICKS.get(name)
    if yardstick is None:
        return f"{name:<55}{measured.gas:>9,}"
    target = f"{yardstick.target:>9,}" if yardstick.target else f"{'':>9}"
    mark = "MISSED" if is_missed(name, measured) else ""
    floor = f"{yardstick.floor:>9,}" if yardstick.floor else f"{'':>9}"
    return f"{name:<55}{measured.gas:>9,}{target}{floor}  {mark:<7}{yardstick.peers}; {yardstick.distance}"


def print_tables(found: Mapping[str, Measured]) -> None:
    """What each collect pays for."""
    for name, measured in found.items():
        if not measured.rows:
            continue
        print(f"\n{name}: {measured.gas:,}")
        for row in measured.rows:
            print(f"  {row.gas:>9,}  {row.times:>5}  {row.what}")


def described(name: str, measured: Measured) -> dict[str, object]:
    """The operation for machines."""
    yardstick = YARDSTICKS.get(name)
    return {
        "name": name,
        "gas": measured.gas,
        **(asdict(yardstick) if yardstick else {}),
        "holds": not is_missed(name, measured),
        "paysFor": [asdict(row) for row in measured.rows],
    }


if __name__ == "__main__":
    main()
