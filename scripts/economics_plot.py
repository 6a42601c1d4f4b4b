"""Profit by cheating rate and stake as one SVG; three panels and a legend need no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from economics_profit import RATES, Cell

WIDTH, HEIGHT, LEFT, TOP, PANEL, GAP = 960, 400, 60, 40, 270, 20
LOW, HIGH = -1.0, 1.0
COLOURS = {
    "honest control": "#000000",
    "4-bit": "#d62728",
    "8-bit, other kernels": "#1f77b4",
    "8-bit, same kernels": "#17becf",
    "earlier checkpoint": "#ff7f0e",
    "hidden prompt": "#9467bd",
    "over-billing": "#8c564b",
    "4-bit, one payer only": "#2ca02c",
}


def write(path: Path, cells: Sequence[Cell]) -> None:
    """Draw the established owners' cells."""
    root = Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}",
        attrib={"font-family": "sans-serif", "font-size": "11"},
    )  # fmt: skip
    SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill="white")
    stakes = sorted({cell.stake for cell in cells})
    for index, stake in enumerate(stakes):
        _panel(root, index, stake, [cell for cell in cells if cell.stake == stake and not cell.is_new])
    _legend(root)
    tree = ElementTree(root)
    indent(tree)
    tree.write(path, encoding="unicode")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")


def _panel(root: Element, index: int, stake: float, cells: Sequence[Cell]) -> None:
    left = LEFT + index * (PANEL + GAP)
    box = {"x": str(left), "y": str(TOP), "width": str(PANEL), "height": str(PANEL), "fill": "none", "stroke": "#999"}
    SubElement(root, "rect", box)
    _text(root, left + PANEL / 2, TOP - 12, f"profit, % of a stake of {stake:,.0f}", "middle")
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        line = {"x1": str(left), "x2": str(left + PANEL), "y1": _y(value), "y2": _y(value), "stroke": "#ddd"}
        SubElement(root, "line", line)
        if index == 0:
            _text(root, left - 6, float(_y(value)) + 4, f"{100 * value:+.0f}" + ("…" if value == HIGH else ""), "end")
    for rate in RATES:
        _text(root, left + _x(rate), TOP + PANEL + 16, "all" if rate == 1 else f"1/{round(1 / rate)}", "middle")
    for name, colour in COLOURS.items():
        mine = sorted((cell for cell in cells if cell.cheat == name), key=lambda cell: cell.rate)
        points = " ".join(f"{left + _x(cell.rate):.1f},{_y(cell.of_stake)}" for cell in mine)
        SubElement(root, "polyline", points=points, fill="none", stroke=colour, attrib={"stroke-width": "2"})


def _legend(root: Element) -> None:
    for index, (name, colour) in enumerate(COLOURS.items()):
        x, y = LEFT + index % 4 * 215, TOP + PANEL + 44 + index // 4 * 20
        line = {"x1": str(x), "x2": str(x + 22), "y1": str(y - 4), "y2": str(y - 4), "stroke": colour}
        SubElement(root, "line", line | {"stroke-width": "2"})
        _text(root, x + 28, y, name, "start")
    _text(root, WIDTH - 12, HEIGHT - 8, "which part of its jobs a cheat cheats on; above +100 % cut off", "end")


def _text(root: Element, x: float, y: float, text: str, anchor: str) -> None:
    SubElement(root, "text", {"x": f"{x:.0f}", "y": f"{y:.0f}", "text-anchor": anchor}).text = text


def _x(rate: float) -> float:
    least = math.log(min(RATES))
    return 20 + (PANEL - 40) * (math.log(rate) - least) / -least


def _y(value: float) -> str:
    kept = min(HIGH, max(LOW, value))
    return f"{TOP + PANEL * (HIGH - kept) / (HIGH - LOW):.1f}"
