"""The table and the plot of scripts/bench_router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Found = dict[str, dict[str, Any]]

BEGIN, END = "<!-- bench_router: begin -->", "<!-- bench_router: end -->"
HEADER = (
    "| router | CPU µs/request | × sglang | CPU µs/token, paced | × sglang | × nginx | CPU µs/token, at once |"
    " added TTFT p50 / p99 ms | RSS MB | 1,000 streams |\n|---|---|---|---|---|---|---|---|---|---|"
)


def cost(found: Found, name: str, run: str, unit: str) -> float | None:
    """Processor time of a router and its store."""
    one = found.get(name, {}).get(run)
    return None if one is None else float(one[f"router{unit}"] + one[f"store{unit}"])


def ratio(value: float | None, base: float | None) -> str:
    """How many times the other's."""
    return "–" if value is None or not base else f"{value / base:.2f}"


def number(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def table_of(found: Found) -> str:
    """Markdown, one line for each router."""
    return "\n".join([HEADER, *[_row(found, name) for name in found if name != "direct"]])


def _row(found: Found, name: str) -> str:
    plain, paced = cost(found, name, "plain", "Us"), cost(found, name, "paced", "UsPerToken")
    sglang = [cost(found, "sglang-router", *key) for key in (("plain", "Us"), ("paced", "UsPerToken"))]
    nginx = cost(found, "nginx", "paced", "UsPerToken")
    one = found[name]
    rss = max((one[run]["rss"] for run in ("plain", "fast", "paced", "quiet") if run in one), default=None)
    cells = [
        f"{name} {one['version']}".strip(),
        number(plain),
        ratio(plain, sglang[0]),
        number(paced),
        ratio(paced, sglang[1]),
        ratio(paced, nginx),
        number(cost(found, name, "fast", "UsPerToken")),
        _added(found, name),
        number(rss),
        _held(one.get("held")),
    ]
    return "| " + " | ".join(cells) + " |"


def _added(found: Found, name: str) -> str:
    one, direct = found[name].get("quiet"), found.get("direct", {}).get("quiet")
    if one is None or direct is None:
        return "–"
    behind = {"firstP50": "nodeFirstP50", "firstP99": "nodeFirstP99"}
    return " / ".join(f"{(one[key] - one.get(behind[key], direct[key])) / 1000:.2f}" for key in behind)


def _held(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    return f"{one['errors']:.0f} errors, {one['rssBefore']:.0f} → {one['rss']:.0f} MB"


def write_report(docs: Path, found: Found, rounds: int) -> None:
    """Puts table and plot into docs/PERFORMANCE.md."""
    page = docs / "PERFORMANCE.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    (docs / "performance.svg").write_text(plot(found), encoding="utf-8")
    note = f"Medians of {rounds} interleaved rounds.\n\n"
    page.write_text(f"{before}{BEGIN}\n{note}{table_of(found)}\n{END}{after}", encoding="utf-8")


def plot(found: Found) -> str:
    """Bars: processor time per request, store included."""
    bars = [(name, cost(found, name, "plain", "Us") or 0.0) for name in found if name != "direct"]
    shown = [(name, value) for name, value in bars if name != "litellm"]
    most = max((value for _, value in shown), default=1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{40 + 28 * len(shown)}"'
        ' font-family="sans-serif" font-size="13">',
        '<text x="8" y="20">processor time per plain request, µs (router and store; litellm is off the scale)</text>',
    ]
    for place, (name, value) in enumerate(shown):
        y, width, colour = 34 + 28 * place, 440 * value / most, "#2b6cb0" if name.startswith("retally") else "#a0aec0"
        lines.append(f'<text x="8" y="{y + 15}">{name}</text>')
        lines.append(f'<rect x="200" y="{y}" width="{width:.0f}" height="20" fill="{colour}"/>')
        lines.append(f'<text x="{206 + width:.0f}" y="{y + 15}">{number(value)}</text>')
    return "\n".join([*lines, "</svg>", ""])
