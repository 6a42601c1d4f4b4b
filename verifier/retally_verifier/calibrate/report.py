"""A calibration's report: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from retally.protocol.calibration import PROBABILITY, Calibration, MarginTable
from retally.protocol.encoding import to_hex
from retally.protocol.evidence import JOB_CLIP, JOB_MISMATCH, margin_log_e, running_log_e
from retally_verifier.calibrate.charts import COLOURS, Chart, Line
from retally_verifier.calibrate.outcome import Outcome
from retally_verifier.calibration_bounds import Margins, histograms

#: Shares are drawn down to this power of ten.
LEAST_POWER = -7
LOWEST_LOG_E = -6.0
#: Paths drawn of each kind; more hide each other.
PATHS = 40
#: Lengths at which power is counted.
LENGTHS = 32
_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;line-height:1.4}"
    "td,th{padding:.15em .8em;text-align:left}code{word-break:break-all}"
)


def report_html(calibration: Calibration, outcomes: Mapping[str, Outcome], command: str) -> str:
    """The whole report."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Calibration</title>",
        f"<style>{_STYLE}</style></head><body><h1>Calibration</h1>",
        _facts(calibration),
        "<p>It judges nothing before the Registry holds its hash and the delay of R-41 is over:</p>",
        f"<pre>{html.escape(command)}</pre>",
    ]
    for mode, outcome in outcomes.items():
        parts += [f"<h2>{mode}</h2>", _summary(outcome), _margins_chart(outcome), _paths_chart(outcome)]
        parts.append(_power_chart(outcome))
    return "".join([*parts, "</body></html>\n"])


def _facts(calibration: Calibration) -> str:
    rows = {
        "hash": calibration.hash,
        "model": calibration.model_id,
        "node's profile": calibration.node_profile,
        "verifier's profile": calibration.verifier_profile,
    }
    cells = "".join(f"<tr><th>{name}</th><td><code>{to_hex(value)}</code></td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _summary(outcome: Outcome) -> str:
    held = outcome.held
    rows = [
        f"<tr><td>{html.escape(pair)}</td><td>{len(jobs)}</td><td>{sum(map(len, jobs)):,}</td>"
        f"<td>{sum(int((job > 0).sum()) for job in jobs)}</td>"
        f"<td>{max(float(job.max(initial=0)) for job in jobs):.3f}</td></tr>"
        for pair, jobs in outcome.measured.honest.items()
    ]
    caught = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{len(outcome.held_cheats[name])}</td><td>{outcome.power(name):.0%}</td></tr>"
        for name in outcome.held_cheats
    )
    return (
        "<table><tr><th>honest pair</th><th>jobs</th><th>tokens</th><th>positive margins</th><th>largest</th></tr>"
        + "".join(rows)
        + "</table><p>All of these jobs made the table. In quarters, drawn by seed, each was judged by a table of the "
        + f"three others: of {held.jobs} the largest log e is {held.largest_log_e:.2f}, the mean e "
        + f"{held.mean_e:.2f} (a bound that holds has a mean of at most 1). Half of the cheats' jobs chose the "
        + "alternative; the others are below.</p>"
        + "<table><tr><th>cheat</th><th>jobs held out</th><th>mismatch by one job</th></tr>"
        + caught
        + "</table>"
    )


def _margins_chart(outcome: Outcome) -> str:
    table = outcome.table
    bins = len(table.honest)
    chart = Chart(
        "Margins: honest jobs and the bound that they made", "margin, nats", "share", (0, bins), (LEAST_POWER, 0)
    )
    chart.ticks(_bin_names(table), {float(power): f"1e{power}" for power in range(LEAST_POWER, 1)})
    for index in range(bins):
        bound, cheat = table.honest[index] / PROBABILITY, table.cheat[index] / PROBABILITY
        chart.bar(index + 0.05, index + 0.95, _log10(bound), "#dddddd")
        chart.line(Line([(index + 0.05, _log10(cheat)), (index + 0.95, _log10(cheat))], "#d62728"))
    chart.name("upper bound", "#dddddd")
    chart.name("alternative", "#d62728")
    for colour, (pair, jobs) in zip(COLOURS, outcome.measured.honest.items(), strict=False):
        shares = histograms(jobs, table.edges).sum(axis=0)
        shares = shares / shares.sum()
        points = [(index + offset, _log10(shares[index])) for index in range(bins) for offset in (0.15, 0.85)]
        chart.line(Line(points, colour, pair, faint=True))
    return chart.svg()


def _bin_names(table: MarginTable) -> dict[float, str]:
    names = [f"{edge / 1e6:g}" for edge in table.edges]
    return {0.5: "0", **{index + 1.0: name for index, name in enumerate(names) if index}}


def _paths_chart(outcome: Outcome) -> str:
    honest = list(outcome.judged())
    cheating = [(job, outcome.table) for jobs in outcome.held_cheats.values() for job in jobs]
    longest = max(len(job) for job, _ in (*honest, *cheating))
    chart = Chart(
        "Evidence of jobs held out, token by token", "tokens", "log e", (0, longest), (LOWEST_LOG_E, JOB_CLIP)
    )
    middle = {0.0: "0", round(JOB_MISMATCH, 2): "ln 1e4"}
    chart.ticks(_lengths(longest), {LOWEST_LOG_E: f"{LOWEST_LOG_E:g}", **middle, JOB_CLIP: f"{JOB_CLIP:g}"})
    for jobs, colour, label in ((cheating, "#d62728", "cheating"), (honest, "#1f77b4", "honest")):
        for job, table in jobs[:: max(1, len(jobs) // PATHS)]:
            path = [(0.0, 0.0), *((n + 1.0, value) for n, value in enumerate(running_log_e(job, table)))]
            chart.line(Line(path, colour, faint=True))
        chart.name(label, colour)
    return chart.svg()


def _power_chart(outcome: Outcome) -> str:
    longest = max(len(job) for jobs in outcome.held_cheats.values() for job in jobs)
    chart = Chart("Power: jobs held out at e of 1e4 by length", "tokens", "share of jobs", (0, longest), (0, 1))
    chart.ticks(_lengths(longest), {0.0: "0", 0.5: "50 %", 1.0: "100 %"})
    lengths = sorted({max(1, round(longest * n / LENGTHS)) for n in range(LENGTHS + 1)})
    kinds = {name: [(job, outcome.table) for job in jobs] for name, jobs in outcome.held_cheats.items()}
    kinds["honest"] = list(outcome.judged())
    for colour, (name, jobs) in zip((*COLOURS[1:], "#000000"), kinds.items(), strict=False):
        points = [(float(n), _mismatches(jobs, n)) for n in lengths]
        chart.line(Line(points, colour, name))
    return chart.svg()


def _mismatches(jobs: Sequence[tuple[Margins, MarginTable]], length: int) -> float:
    return float(np.mean([margin_log_e(job[:length], table) >= JOB_MISMATCH for job, table in jobs]))


def _lengths(longest: int) -> dict[float, str]:
    return {longest * n / 4: f"{longest * n // 4}" for n in range(5)}


def _log10(share: float) -> float:
    return max(float(LEAST_POWER), math.log10(share)) if share > 0 else float(LEAST_POWER)
