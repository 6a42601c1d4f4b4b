"""How much memory a process and everything it started hold at most."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

_EVERY_SECONDS = 0.5


class PeakMemory:
    """Sums the resident memory of this process tree twice a second; pages shared between processes count for each."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak_mb(self) -> int:
        """The highest sum seen so far."""
        return self.peak_bytes >> 20

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            total = 0
            this = psutil.Process()
            for process in (this, *this.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
