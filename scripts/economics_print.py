"""The report as tables for people: plain or Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from economics_bounds import Agreement, one_shot_bound, slow_bound
from economics_findings import money
from economics_profit import RATES, STAKES, Cell, Special, World
from economics_terms import Cheat

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table."""

    title: str
    head: Row
    rows: Sequence[Row]

    def render(self, *, markdown: bool) -> str:
        """Its lines."""
        if markdown:
            lines = [_bar(self.head), "|" + "---|" * len(self.head), *(_bar(row) for row in self.rows)]
            return "\n".join([f"**{self.title}**", "", *lines, ""])
        widths = [max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                 for row in [self.head, *self.rows]]  # fmt: skip
        return "\n".join([self.title, "-" * len(self.title), *lines, ""])


def given(world: World) -> Table:
    """What goes in: the deployed parameters, then the assumptions."""
    terms, assumed = world.terms, world.assumed
    rows = [
        ("least stake", f"{terms.minimum_stake:,.0f}", "deployed"),
        ("paid unaudited in a week, of the stake", f"{terms.exposure:.0%}", "deployed"),
        ("audit step, new and established", f"{terms.new_step} and {terms.established_step} units", "deployed"),
        ("audit share, new and established", f"{terms.new_share:.0%} and {terms.established_share:.0%}", "deployed"),
        ("severity of a mismatch, of a conflict", _pair(terms.severities, "mismatch", "conflict"), "deployed"),
        ("thaw, duty, longest case", f"{terms.thaw_days:g}, {terms.duty_days:g}, {terms.case_days:g} days", "deployed"),
        ("verifiers' age before they are drawn", f"{terms.verifier_age_days:g} days", "deployed"),
        ("unit: usual fee of a job", f"{assumed.unit:g}", "assumed; the timelock sets it by model"),
        ("honest cost of a job, of its fee", f"{assumed.cost:.0%}", "assumed"),
        ("payers, verifiers", f"{assumed.payers}, {assumed.verifiers}", "assumed, all equal"),
        ("cost of capital a year", f"{assumed.interest:.0%}", "assumed"),
        ("jobs short enough to be a trap", f"{assumed.short_prompts:.0%}", "assumed"),
        ("evidence of a job", f"{world.evidence.tokens} tokens", world.evidence.source),
    ]
    return Table("What goes in (dollars)", ("what", "value", "from"), rows)


def profits(cells: Sequence[Cell], cheats: Sequence[Cheat], *, is_new: bool) -> Table:
    """Profit in percent of the stake, three stakes in a cell."""
    by = {(each.cheat, each.rate, each.stake): each for each in cells if each.is_new == is_new}
    stakes = sorted({each.stake for each in by.values()})
    rows = [
        (cheat.name, f"{cheat.gain:.2f}", *[
            " / ".join(percent(by[cheat.name, rate, stake].of_stake) for stake in stakes) for rate in RATES
        ]) for cheat in cheats
    ]  # fmt: skip
    who = "new" if is_new else "established"
    return Table(
        f"Profit of {who} owners beyond the honest one's, % of the stake in a year; stake {_stakes(stakes)}",
        ("cheat", "gain", *[f"{_share(rate)} of jobs" for rate in RATES]),
        rows,
    )


def others(specials: Sequence[Special]) -> Table:
    """The attackers without a rate."""
    rows = [(each.name, each.round, " / ".join(money(value) for value in each.profits), each.why)
            for each in specials]  # fmt: skip
    stakes = "/".join(f"{multiple}x" for multiple in STAKES)
    return Table("Other attackers, dollars a round", ("attacker", "round", stakes, "what bounds it"), rows)


def bounds(world: World, cheats: Sequence[Cheat], agreements: Sequence[Agreement]) -> Table:
    """The closed forms at the least stake, beside the deployed chances, and the simulated audits.

    One caught job convicts only where no evidence is needed: no job's e reaches the owner's threshold.
    """
    by = {(each.cheat, each.rate): each for each in agreements}
    rows = []
    for cheat in cheats:
        units = world.terms.severities[cheat.severity] * world.terms.minimum_stake / world.assumed.unit
        often, seldom = by.get((cheat.name, RATES[0])), by.get((cheat.name, RATES[-1]))
        if cheat.evidence is None:
            rows.append((cheat.name, "–", f"{one_shot_bound(cheat.gain, 1, units, 1.0):.1e}", "–", "1", "1"))
        elif often and seldom:
            slow = f"{slow_bound(cheat.gain, units, seldom.nats):.1e}"
            each = f"{often.nats:.1f} / {seldom.nats:.1f}"
            rows.append((cheat.name, each, "–", slow, _audits(often), _audits(seldom)))
    chances = f"{1 / world.terms.new_step:.0%} new, {1 / world.terms.established_step:.0%} established"
    head = ("cheat", "I at 1 / at 1/100", "one-shot p >", "slow p >", "caught at 1", "caught at 1/100")
    return Table(f"Closed forms at the least stake; a job's deployed chance is {chances}", head, rows)


def fees(world: World, cells: Sequence[tuple[float, Cell]]) -> Table:
    """What dearer jobs do: fewer of them are audited for the same money."""
    units = sorted({unit for unit, _ in cells})
    by = {(unit, cell.rate): cell for unit, cell in cells}
    rows = [(f"{unit:g}", *[percent(by[unit, rate].of_stake) for rate in RATES]) for unit in units]
    title = f"4-bit by the usual fee of a job, % of the stake in a year; stake {world.terms.minimum_stake:,.0f}"
    return Table(title, ("fee", *[f"{_share(rate)} of jobs" for rate in RATES]), rows)


def winners(found: Sequence[dict[str, str | float]]) -> Table:
    """Who does not lose."""
    rows = [(str(item["name"]), money(float(item["dollars"])), str(item["where"]), str(item["change"]))
            for item in found]  # fmt: skip
    return Table("Attackers that do not lose", ("attacker", "most", "where", "what would change it"), rows)


def percent(value: float) -> str:
    """Whole percents; a loss is never rounded to nothing, nor a profit."""
    text = f"{100 * value:+.0f}"
    return "0" if value == 0 else f"{100 * value:+.1g}" if text in ("+0", "-0") else text


def _audits(each: Agreement) -> str:
    return f"{each.simulated:.1f} in {each.least:.1f}–{each.most:.1f}" + ("" if each.holds else " DISAGREES")


def _share(rate: float) -> str:
    return "all" if math.isclose(rate, 1) else f"1/{round(1 / rate)}"


def _stakes(stakes: Sequence[float]) -> str:
    return " / ".join(f"{stake:,.0f}" for stake in stakes)


def _pair(values: dict[str, float], one: str, two: str) -> str:
    return f"{values[one]:.0%}, {values[two]:.0%}"


def _bar(row: Row) -> str:
    return "| " + " | ".join(row) + " |"
