"""Room for segments: how many decode, how many wait."""

from __future__ import annotations

import asyncio


class ServingRoom:
    """How many segments this node decodes and keeps waiting."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._limit = max_running + max_waiting
        self._max_running = max_running
        self._turns = asyncio.Semaphore(max_running)
        self.admitted = 0

    @property
    def running(self) -> int:
        """Segments being decoded."""
        return min(self.admitted, self._max_running)

    @property
    def waiting(self) -> int:
        """Segments admitted beyond those."""
        return self.admitted - self.running

    def has_room(self, segments: int) -> bool:
        """Whether so many more segments may come in."""
        return self.admitted + segments <= self._limit

    def enter(self, segments: int) -> None:
        """Count segments in."""
        self.admitted += segments

    def leave(self) -> None:
        """Count one segment out."""
        self.admitted -= 1

    @property
    def turns(self) -> asyncio.Semaphore:
        """Held while a segment decodes."""
        return self._turns
