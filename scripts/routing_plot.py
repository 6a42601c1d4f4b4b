"""TTFT p99 by load and policy as one SVG; two axes and a legend need no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from routing_report import Row

WIDTH, HEIGHT, LEFT, TOP, WIDE, HIGH = 720, 400, 60, 30, 420, 320
LEAST, MOST = 0.3, 100.0
COLOURS = ("#000000", "#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")


def write(path: Path, rows: Sequence[tuple[float, Row]]) -> None:
    """Draw each policy's TTFT p99 over the load, both axes in factors."""
    root = Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}",
        attrib={"font-family": "sans-serif", "font-size": "11"},
    )  # fmt: skip
    SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill="white")
    loads = sorted({load for load, _ in rows})
    box = {"x": str(LEFT), "y": str(TOP), "width": str(WIDE), "height": str(HIGH), "fill": "none", "stroke": "#999"}
    SubElement(root, "rect", box)
    _text(root, LEFT, TOP - 10, "TTFT p99 in seconds, by load (1 = the table's)", "start")
    for seconds in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
        line = {"x1": str(LEFT), "x2": str(LEFT + WIDE), "y1": _y(seconds), "y2": _y(seconds), "stroke": "#ddd"}
        SubElement(root, "line", line)
        _text(root, LEFT - 6, float(_y(seconds)) + 4, f"{seconds:g}", "end")
    for load in loads:
        _text(root, float(_x(load, loads)), TOP + HIGH + 16, f"{load:g}", "middle")
    for number, policy in enumerate(dict.fromkeys(row.policy for _, row in rows)):
        colour = COLOURS[number % len(COLOURS)]
        mine = sorted((load, row.mean("ttft_p99")) for load, row in rows if row.policy == policy)
        points = " ".join(f"{_x(load, loads)},{_y(p99)}" for load, p99 in mine)
        SubElement(root, "polyline", points=points, fill="none", stroke=colour, attrib={"stroke-width": "2"})
        y = TOP + 20 + 20 * number
        line = {"x1": str(LEFT + WIDE + 20), "x2": str(LEFT + WIDE + 44), "y1": str(y), "y2": str(y)}
        SubElement(root, "line", line | {"stroke": colour, "stroke-width": "2"})
        _text(root, LEFT + WIDE + 50, y + 4, policy, "start")
    indent(root)
    tree = ElementTree(root)
    tree.write(path, encoding="unicode")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")


def _x(load: float, loads: Sequence[float]) -> str:
    low, high = log10(loads[0]), log10(loads[-1])
    share = 0.5 if low == high else (log10(load) - low) / (high - low)
    return f"{LEFT + 20 + (WIDE - 40) * share:.1f}"


def _y(seconds: float) -> str:
    bounded = min(MOST, max(LEAST, seconds))
    share = (log10(bounded) - log10(LEAST)) / (log10(MOST) - log10(LEAST))
    return f"{TOP + HIGH * (1 - share):.1f}"


def _text(root: Element, x: float, y: float, text: str, anchor: str) -> None:
    SubElement(root, "text", {"x": str(x), "y": str(y), "text-anchor": anchor}).text = text
