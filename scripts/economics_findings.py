"""Which attackers do not lose at the deployed parameters, by how much, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from economics_bounds import Agreement
from economics_held import CHEAPER, OVERFLOW, overflow_break_even
from economics_profit import Cell, Special, World, gain_of
from economics_special import corrupt_break_even, least_undisclosed, strongest, trap_break_even, traps_a_period
from retally.protocol.evidence import LAMBDAS, OWNER_MISMATCH, PAYER_CLIP

DEEPER = 1e-6


def remedies(world: World) -> dict[str, str]:
    """What would change it, by the attacker's name."""
    shown = least_undisclosed(world.assumed.payers, strongest(world.evidence.jobs["fp8-same-kernels"]))
    capped = least_undisclosed(1, strongest(world.evidence.jobs["int4"]))
    deeper = (PAYER_CLIP - OWNER_MISMATCH - math.log(len(LAMBDAS) + 2)) / DEEPER
    kernels = "below the noise of other kernels: only a profile that pins the kernels, or an exact one, can tell"
    files = f"a case shows 32 receipts: beyond {shown:,} drawn points a period they do not suffice at this evidence; "
    files += "longer jobs, an exact profile, or cases that show more"
    payer = f"one payer's evidence is capped at {PAYER_CLIP:.0f} nats: beyond {capped:,} points a period not shown it "
    payer += f"never convicts; bets down to 1e-6 would move that to {deeper:,.0f}"
    few = "one token of a job shows it, and makes a mismatch and no more: cases that show more than 32 receipts"
    return {
        "splice": few,
        "early stop": few,
        "8-bit, other kernels": kernels,
        "fp8, other kernels": kernels,
        "8-bit, same kernels": files,
        "fp8, same kernels": files,
        "4-bit, one payer only": payer,
        "padded commits, one payer": payer,
        "4-bit, little traffic": "too few caught jobs in any period; evidence that is kept longer",
        "paced 4-bit": "evidence that is kept longer than a period, and shared between verifiers",
        "self-audit, sole verifier": f"more verifiers: less than {corrupt_break_even(world):.0%} corrupt suffices",
        "4-bit, pool not ready": "unrelated owners with stake in its pool, more than it needs: one may leave",
        **_beyond_cap(world),
        "lazy verifier, no traps": f"traps in {trap_break_even(world):.2%} of the points; an owner may "
        f"plant {min(traps_a_period(world)):.2%} to {max(traps_a_period(world)):.2%} of its own before they convict it",
        "lazy verifier that looks for traps": "traps that look like any job, or a cost of verdicts that others refute",
    }


def _beyond_cap(world: World) -> dict[str, str]:
    """From how much traffic on each pays. What the severity takes of held credit is the same for all."""
    four, cheaper = gain_of(world), gain_of(world, CHEAPER)
    old, new = world.terms.established_share, world.terms.new_share
    name, more = f"{OVERFLOW} times the exposure cap", "a severity of held credit above what is gained on it"
    ways = {
        f"{name}, new owner": (overflow_break_even(world, four, new), four / (1 - new)),
        f"{name}, cheaper model": (overflow_break_even(world, cheaper, old), cheaper / (1 - old)),
    }
    found = {who: f"from {times:g} times the cap on; {more}, here {of:.0%}" for who, (times, of) in ways.items()}
    least = overflow_break_even(world, four, old, friend=True)
    found[f"{name}, friend accuses"] = (
        f"from {least:g} times the cap on; a challenger's share of the stake's part alone"
    )
    return found


def profiting(
    world: World, cells: Sequence[Cell], specials: Sequence[Special], by_fee: Sequence[tuple[float, Cell]]
) -> list[dict[str, str | float]]:
    """All that do not lose: their best profit and where it is, the worst first."""
    known = remedies(world)
    found = dear_jobs(by_fee)
    for name in dict.fromkeys(each.cheat for each in cells if each.cheat != "honest control"):
        mine = [each for each in cells if each.cheat == name and each.profit >= 0]
        if not mine:
            continue
        best = max(mine, key=lambda each: each.profit)
        where = f"{len(mine)} cells; best: {_owner(best)} with {best.stake:,.0f} at rate {best.rate:g}, a year"
        found.append({"name": name, "dollars": best.profit, "where": where, "change": known.get(name, "unexplained")})
    for special in specials:
        if max(special.profits) >= 0:
            where = f"{special.round}, by stake: {' / '.join(money(value) for value in special.profits)}"
            found.append(
                {
                    "name": special.name,
                    "dollars": max(special.profits),
                    "where": where,
                    "change": known.get(special.name, "unexplained"),
                }
            )
    return sorted(found, key=lambda item: -float(item["dollars"]))


def dear_jobs(by_fee: Sequence[tuple[float, Cell]]) -> list[dict[str, str | float]]:
    """The fees at which 4-bit pays at the least stake: the same money holds fewer audits."""
    paying = [(fee, each) for fee, each in by_fee if each.profit >= 0]
    if not paying:
        return []
    least = min(fee for fee, _ in paying)
    best = max(each.profit for _, each in paying)
    safe = [each.stake / fee for fee, each in by_fee if fee < least]
    change = "a least stake that grows with the model's unit"
    change += f": {min(safe):,.0f} units of it deter" if safe else ""
    where = f"at the least stake, from a usual fee of {least:g} on, a year"
    return [{"name": "4-bit, dear jobs", "dollars": best, "where": where, "change": change}]


def disagreeing(agreements: Sequence[Agreement]) -> list[str]:
    """Where simulation and closed form differ by more than the tolerance."""
    return [f"{each.cheat} at {each.rate:g}" for each in agreements if not each.holds]


def money(value: float) -> str:
    """Dollars; cents and less where they matter."""
    return f"{value:+,.0f}" if abs(value) >= 10 else f"{value:+.2g}"


def _owner(best: Cell) -> str:
    return "new owner" if best.is_new else "established owner"
