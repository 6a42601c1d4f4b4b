"""Figures of a run, means over seeds with bootstrap intervals, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

import numpy as np

from routing_nodes import Make
from routing_world import Outcome, World

QUICK_TTFT, QUICK_TPOT = 1.0, 0.05
RESAMPLES = 2000
Figures = dict[str, float]


def figures(world: World) -> Figures:
    """One run in numbers: seconds, shares in percent, prices in dollars per million tokens."""
    outcomes = world.outcomes
    ttfts = np.array([inf if outcome.ttft is None else outcome.ttft for outcome in outcomes])
    answered = [outcome for outcome in outcomes if outcome.seconds is not None]
    tokens = sum(outcome.turn.prompt_tokens + outcome.turn.output_tokens for outcome in answered)
    span = world.trace.turns[-1].at or 1.0
    prompts = sum(outcome.turn.prompt_tokens for outcome in outcomes)
    return {
        # An answer that never began counts as endless.
        "ttft_p50": float(np.quantile(ttfts, 0.5, method="lower")),
        "ttft_p95": float(np.quantile(ttfts, 0.95, method="lower")),
        "ttft_p99": float(np.quantile(ttfts, 0.99, method="lower")),
        "ttft_mean": float(np.mean(ttfts[np.isfinite(ttfts)])),
        "seconds_mean": float(np.mean([outcome.seconds for outcome in answered])),
        "in_time": 100.0 * float(np.mean([is_in_time(outcome) for outcome in outcomes])),
        "price": sum(outcome.paid for outcome in answered) / max(1, tokens),
        "broken": 100.0 * float(np.mean([outcome.broken for outcome in outcomes])),
        "liars": 100.0 * float(np.mean([world.makes[outcome.first_choice].is_liar for outcome in outcomes])),
        "hit": 100.0 * sum(outcome.cached for outcome in outcomes) / prompts,
        "prefill_use": 100.0 * float(np.mean([node.busy_seconds / span for node in world.nodes])),
        "largest_share": 100.0 * _largest_share(world.makes, outcomes),
    }


def is_in_time(outcome: Outcome) -> bool:
    """Begun within a second and no slower than 50 ms a token."""
    if outcome.ttft is None or outcome.seconds is None or outcome.ttft >= QUICK_TTFT:
        return False
    return (outcome.seconds - outcome.ttft) / max(1, outcome.turn.output_tokens - 1) < QUICK_TPOT


def _largest_share(makes: Sequence[Make], outcomes: Sequence[Outcome]) -> float:
    counts = np.bincount([outcome.first_choice for outcome in outcomes], minlength=len(makes))
    return float(counts.max() / counts.sum())


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in one setting, over several seeds."""

    setting: str
    policy: str
    runs: Sequence[Figures]

    def mean(self, name: str) -> float:
        """Over the seeds."""
        return float(np.mean([run[name] for run in self.runs]))

    def interval(self, name: str) -> tuple[float, float]:
        """Of the mean, 95 %."""
        return bootstrap([run[name] for run in self.runs], np.mean)

    def to_json(self) -> dict[str, object]:
        """All figures with their intervals."""
        found = {}
        for name in self.runs[0]:
            low, high = self.interval(name)
            found[name] = {"mean": round(self.mean(name), 5), "interval": [round(low, 5), round(high, 5)]}
        return {"setting": self.setting, "policy": self.policy, "seeds": len(self.runs), "figures": found}


def bootstrap(values: Sequence[float], statistic: Callable[[Sequence[float]], object]) -> tuple[float, float]:
    """A 95 % interval of a statistic by resampling the seeds."""
    random = Random(7)
    found = [float(str(statistic(random.choices(values, k=len(values))))) for _ in range(RESAMPLES)]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def ratio(row: Row, other: Row, name: str) -> tuple[float, tuple[float, float]]:
    """How one policy's mean compares with another's on the same seeds, with a 95 % interval."""
    pairs = [(mine[name], theirs[name]) for mine, theirs in zip(row.runs, other.runs, strict=True)]
    random, found = Random(7), []
    for _ in range(RESAMPLES):
        drawn = random.choices(pairs, k=len(pairs))
        found.append(sum(mine for mine, _ in drawn) / sum(theirs for _, theirs in drawn))
    whole = sum(mine for mine, _ in pairs) / sum(theirs for _, theirs in pairs)
    return whole, (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975)))


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("ttft_p50", "TTFT p50, s", ".3f"),
    ("ttft_p95", "p95, s", ".2f"),
    ("ttft_p99", "p99, s", ".2f"),
    ("seconds_mean", "whole answer, s", ".2f"),
    ("in_time", "in time, %", ".1f"),
    ("price", "$ per M tokens", ".4f"),
    ("broken", "broken, %", ".2f"),
    ("liars", "to liars, %", ".2f"),
    ("hit", "cache hits, %", ".1f"),
    ("prefill_use", "prefill use, %", ".1f"),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown; the p99 with its interval."""
    lines = ["| policy | " + " | ".join(title for _, title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        cells = [format(row.mean(name), form) for name, _, form in COLUMNS]
        low, high = row.interval("ttft_p99")
        cells[2] += f" ({low:.2f}–{high:.2f})"
        lines.append(f"| {row.policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Target:
    """One aim, what was found, and whether that holds for the whole interval."""

    what: str
    limit: float
    found: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """Met, met on average only, or missed."""
        if self.interval[1] <= self.limit:
            return "met"
        return "met on average" if self.found <= self.limit else "missed"

    def line(self) -> str:
        """As a row of a table."""
        low, high = self.interval
        return f"| {self.what} | <= {self.limit:g} | {self.found:.3f} ({low:.3f}–{high:.3f}) | {self.verdict} |"


def targets(rows: Mapping[str, Row]) -> list[Target]:
    """The aims of our policy in one setting, against the better of llm-d's two and p2c."""
    ours = rows["retally"]
    scorers = min((rows["scorers"], rows["scorers+own"]), key=lambda row: row.mean("ttft_p99"))
    found = []
    for what, limit, other, name in (
        (f"TTFT p99 / that of {scorers.policy}", 0.6, scorers, "ttft_p99"),
        ("TTFT p99 / that of p2c", 0.2, rows["p2c"], "ttft_p99"),
        (f"price / that of {scorers.policy}", 1.05, scorers, "price"),
        ("price / that of p2c", 1.05, rows["p2c"], "price"),
    ):
        found.append(Target(what, limit, *ratio(ours, other, name)))
    found.append(Target("share of the liars, %", 3.0, ours.mean("liars"), ours.interval("liars")))
    return found


def target_table(found: Sequence[Target]) -> str:
    """Markdown."""
    head = "| aim | limit | found (95 % over seeds) | |\n|---|---|---|---|\n"
    return head + "\n".join(target.line() for target in found)
