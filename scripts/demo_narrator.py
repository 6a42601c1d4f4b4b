"""Says what happens in the demo, with the time since its start; the story goes to standard output for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


class Narrator:
    """Writes lines as they happen. With `quiet` they go to standard error, so that the JSON stands alone."""

    def __init__(self, *, quiet: bool) -> None:
        self._started = time.monotonic()
        self._console = Console(file=sys.stderr if quiet else sys.stdout, highlight=False, soft_wrap=True)

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def act(self, title: str) -> None:
        """Open a chapter."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, line: str) -> None:
        """One thing that happened."""
        self._console.print(f"{self.seconds:7.1f} s  {line}", markup=False)

    def token(self, text: str) -> None:
        """A piece of a streamed answer, as it arrives."""
        self._console.print(text, end="", markup=False, style="cyan")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table; the last column is an amount."""
        table = Table()
        for column in columns[:-1]:
            table.add_column(column)
        table.add_column(columns[-1], justify="right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
