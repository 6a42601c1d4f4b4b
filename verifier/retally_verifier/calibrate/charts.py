"""Charts of a calibration as SVG; axes, lines and bars need no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 300, 64, 240, 26, 40
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2", "#7f7f7f", "#bcbd22")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; without a label it stays out of the legend."""

    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    faint: bool = False


class Chart:
    """A chart with linear axes."""

    def __init__(self, title: str, x: str, y: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self._x_range, self._y_range = x_range, y_range
        self._legend = 0
        self._root = Element(
            "svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "width": str(WIDTH), "role": "img", "aria-label": title}
        )
        self._root.set("xmlns", "http://www.w3.org/2000/svg")
        self._root.set("font-family", "sans-serif")
        self._root.set("font-size", "11")
        SubElement(self._root, "rect", {"width": str(WIDTH), "height": str(HEIGHT), "fill": "white"})
        self._text(LEFT, 16, title, "start", bold=True)
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x, "middle")
        self._text(6, 16 + TOP / 2, y, "start")
        frame = {"x": f"{LEFT}", "y": f"{TOP}", "fill": "none", "stroke": "#999"}
        size = {"width": f"{WIDTH - LEFT - RIGHT}", "height": f"{HEIGHT - TOP - BOTTOM}"}
        SubElement(self._root, "rect", frame | size)

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        low, high = self._x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (min(high, max(low, value)) - low) / (high - low)

    def y(self, value: float) -> float:
        """Where a value lies from the top; beyond the range it is cut."""
        low, high = self._y_range
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(high, max(low, value))) / (high - low)

    def ticks(self, xs: Mapping[float, str], ys: Mapping[float, str]) -> None:
        """Labels the axes."""
        for value, text in xs.items():
            self._text(self.x(value), HEIGHT - BOTTOM + 14, text, "middle")
        for value, text in ys.items():
            at = f"{self.y(value):.1f}"
            ends = {"x1": f"{LEFT}", "x2": f"{WIDTH - RIGHT}", "y1": at, "y2": at, "stroke": "#ddd"}
            SubElement(self._root, "line", ends)
            self._text(LEFT - 6, self.y(value) + 4, text, "end")

    def line(self, line: Line) -> None:
        """Draws one line, and names it."""
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in line.points)
        style = {"fill": "none", "stroke": line.colour, "stroke-width": "1" if line.faint else "2"}
        SubElement(self._root, "polyline", {"points": points, **style, "opacity": "0.45" if line.faint else "1"})
        if line.label:
            self.name(line.label, line.colour)

    def bar(self, left: float, right: float, value: float, colour: str) -> None:
        """Draws a bar from the bottom of the range."""
        x, top = self.x(left), self.y(value)
        size = {"width": f"{max(1.0, self.x(right) - x):.1f}", "height": f"{self.y(self._y_range[0]) - top:.1f}"}
        SubElement(self._root, "rect", {"x": f"{x:.1f}", "y": f"{top:.1f}", **size, "fill": colour})

    def name(self, label: str, colour: str) -> None:
        """A line of the legend."""
        y = TOP + 10 + 16 * self._legend
        self._legend += 1
        ends = {"x1": f"{WIDTH - RIGHT + 8}", "x2": f"{WIDTH - RIGHT + 24}", "y1": f"{y - 4}", "y2": f"{y - 4}"}
        SubElement(self._root, "line", {**ends, "stroke": colour, "stroke-width": "3"})
        self._text(WIDTH - RIGHT + 28, y, label, "start")

    def svg(self) -> str:
        """The chart as text."""
        return tostring(self._root, encoding="unicode")

    def _text(self, x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> None:
        where = {"x": f"{x:.0f}", "y": f"{y:.0f}", "text-anchor": anchor}
        SubElement(self._root, "text", where | ({"font-weight": "bold"} if bold else {})).text = text
