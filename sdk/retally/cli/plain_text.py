"""Texts of strangers on a terminal: characters alone, never its control codes and never our own markup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

#: C0, DEL and C1 but for the newline and the tab: they move the cursor, fill the clipboard, rename the window.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def clean(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROLS)


class Cleaned:
    """Anything rich can show, cleaned as it is written: whatever stands in it came through here."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


class PlainTable(Table):
    """A table whose cells are plain; what shall have a style is a `Text`."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row; a string in it is no markup."""
        super().add_row(*(Text(clean(cell)) if isinstance(cell, str) else cell for cell in cells), **options)
