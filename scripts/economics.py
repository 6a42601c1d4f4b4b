"""What each attacker earns at the deployed parameters; `scripts/economics` runs it.

Usage: scripts/economics [--markdown] [--json] [--seed N] [--trials N] [--evidence FILE] [--plot FILE] [--unit DOLLARS]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import economics_plot
import economics_print
from economics_bounds import TOLERANCE, Agreement, agreement
from economics_evidence import load, one_token
from economics_findings import disagreeing, profiting
from economics_profit import RATES, Cell, Special, World, cell, honest_loss, table
from economics_special import specials
from economics_terms import Assumptions, Cheat, cheats, terms_of
from retally.chain.parameters import default_parameters
from retally.protocol.evidence import JOB_MISMATCH

FEES = (0.001, 0.01, 0.1, 1.0, 10.0)
ALPHA = 1e-9


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; fail where simulation and closed forms disagree or the honest control loses."""
    options = _options(arguments)
    world = World(
        terms=terms_of(default_parameters()),
        assumed=Assumptions(unit=options.unit),
        evidence=load(options.evidence),
        seed=options.seed,
        trials=options.trials,
    )
    ways = cheats(world.assumed)
    cells = [*table(world, ways), *table(world, ways, is_new=True)]
    others = specials(world)
    checked = agreements(world, ways)
    by_fee = fees(world, ways)
    found = profiting(world, cells, others, by_fee)
    tables = [
        economics_print.given(world),
        economics_print.profits(cells, ways, is_new=False),
        economics_print.profits(cells, ways, is_new=True),
        economics_print.others(others),
        economics_print.fees(world, by_fee),
        economics_print.bounds(world, ways, checked),
        economics_print.winners(found),
    ]
    for each in tables:
        print(each.render(markdown=options.markdown))
    failed = failures(cells, checked)
    print("\n".join([*notes(world), *failed]))
    if options.plot:
        economics_plot.write(options.plot, cells)
    if options.json:
        print(json.dumps(report(world, cells, others, checked, found, failed)))
    return 1 if failed else 0


def agreements(world: World, ways: Sequence[Cheat]) -> list[Agreement]:
    """Closed form against simulation, for every cheat of its own evidence and every rate."""
    plain = [each for each in ways if each.evidence and each.gain and not each.one_payer and not each.corrupt]
    found = [agreement(world, each, rate) for each in plain if each.traffic == 1 for rate in RATES]
    return [each for each in found if each is not None]


def fees(world: World, ways: Sequence[Cheat]) -> list[tuple[float, Cell]]:
    """4-bit at the least stake, by the usual fee of a job."""
    four = next(each for each in ways if each.name == "4-bit")
    worlds = [replace(world, assumed=replace(world.assumed, unit=fee)) for fee in FEES]
    stake = world.terms.minimum_stake
    return [(each.assumed.unit, cell(each, four, rate, stake)) for each in worlds for rate in RATES]


def failures(cells: Sequence[Cell], checked: Sequence[Agreement]) -> list[str]:
    """What must not be."""
    found = [f"FAILED: closed form and simulation disagree: {name}" for name in disagreeing(checked)]
    if any(each.profit != 0 for each in cells if each.cheat == "honest control"):
        found.append("FAILED: the honest control wins or loses")
    return found


def notes(world: World) -> list[str]:
    """What the tables do not say."""
    loss = honest_loss(world, world.terms.minimum_stake, ALPHA)
    splice = one_token(world.evidence.tokens)
    return [
        f"Evidence ({world.evidence.source}): {world.evidence.about}",
        f"Honest owners of the least stake lose at most {loss:.0e} dollars a year to the court, where the calibration "
        "holds.",
        f"Simulated counts must lie within the closed forms, give or take {TOLERANCE:.0%}.",
        f"Under the calibration that the devnet ships one spliced token in {world.evidence.tokens} gives "
        f"{splice:+.1f} nats; a mismatch is {JOB_MISMATCH:.1f}.",
    ]


def report(
    world: World,
    cells: Sequence[Cell],
    others: Sequence[Special],
    checked: Sequence[Agreement],
    found: Sequence[dict[str, str | float]],
    failed: Sequence[str],
) -> dict[str, Any]:
    """The same for machines."""
    return {
        "seed": world.seed,
        "trials": world.trials,
        "terms": asdict(world.terms),
        "assumptions": asdict(world.assumed),
        "evidence": {"source": world.evidence.source, "about": world.evidence.about},
        "cells": [asdict(each) for each in cells],
        "others": [asdict(each) for each in others],
        "agreements": [{**asdict(each), "holds": each.holds} for each in checked],
        "profiting": list(found),
        "failures": list(failed),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/VERIFICATION.md")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40, help="lives a cell")
    parser.add_argument("--evidence", type=Path, help="measured log e of jobs, in the format of economics_evidence.py")
    parser.add_argument("--plot", type=Path, help="write the profits as an SVG")
    parser.add_argument("--unit", type=float, default=Assumptions().unit, help="dollars: the usual fee of a job")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
