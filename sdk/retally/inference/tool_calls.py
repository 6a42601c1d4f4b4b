"""Calls of tools in an answer's text (R-71): `<tool_call>{"name": …, "arguments": {…}}</tool_call>`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from retally.protocol.structure import CALL_BEGIN, CALL_END


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; its arguments are JSON text."""

    #: Its place among the answer's calls.
    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """What some new text comes to: text to show, and calls that became whole."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class ToolCallReader:
    """Takes calls out of growing text; what may yet become one is held back, what turns out to be none is text."""

    def __init__(self) -> None:
        self._held = ""
        # Whether nothing but white space came since the last call.
        self._is_behind_call = False
        #: How many calls there were.
        self.count = 0

    def push(self, text: str) -> Said:
        """Take new text."""
        self._held += text
        shown, calls = "", []
        while (begin := self._held.find(CALL_BEGIN)) >= 0:
            end = self._held.find(CALL_END, begin)
            if end < 0:
                break
            call = _call_of(self.count, self._held[begin + len(CALL_BEGIN) : end])
            cut = end + len(CALL_END)
            shown += self._visible(self._held[: cut if call is None else begin])
            if call is not None:
                calls.append(call)
                self.count += 1
                self._is_behind_call = True
            self._held = self._held[cut:]
        cut = begin if begin >= 0 else len(self._held) - _possible_start(self._held)
        # White space behind a call is held until it is known whether text follows.
        if not self._is_behind_call or self._held[:cut].strip():
            shown += self._visible(self._held[:cut])
            self._held = self._held[cut:]
        return Said(shown, tuple(calls))

    def finish(self) -> Said:
        """What was held back, at the answer's end."""
        held, self._held = self._held, ""
        return Said(self._visible(held))

    def _visible(self, text: str) -> str:
        if not text.strip():
            return "" if self._is_behind_call else text
        self._is_behind_call = False
        return text


def _call_of(index: int, text: str) -> ToolCall | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    return ToolCall(index, value["name"], json.dumps(arguments, ensure_ascii=False))


def _possible_start(text: str) -> int:
    longest = min(len(text), len(CALL_BEGIN) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(CALL_BEGIN[:size])), 0)
