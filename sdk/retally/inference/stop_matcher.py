"""Stop strings over streamed text (R-31)."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string to complete; holds back text that may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take new text and return what may be shown; after a match `stopped` is True and the rest is dropped."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        self._held += text
        cut = self._first_match()
        if cut is not None:
            shown, self._held, self.stopped = self._held[:cut], "", True
            return shown
        keep = self._possible_start()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """Return the text held back, at an answer's end without a stop string."""
        shown, self._held = self._held, ""
        return shown

    def _first_match(self) -> int | None:
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_start(self) -> int:
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
