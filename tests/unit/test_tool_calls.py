"""Calls of tools are taken out of an answer's text, however it is cut (R-71)."""

from __future__ import annotations

import pytest

from retally.inference.tool_calls import ToolCall, ToolCallReader

ONE = '<tool_call>\n{"name": "f", "arguments": {"b": "x", "a": 1}}\n</tool_call>'
OTHER = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
CALLS = (ToolCall(0, "f", '{"b": "x", "a": 1}'), ToolCall(1, "g", "{}"))


def read(text: str, size: int) -> tuple[str, tuple[ToolCall, ...]]:
    reader = ToolCallReader()
    said = [reader.push(text[n : n + size]) for n in range(0, len(text), size)] + [reader.finish()]
    return "".join(part.text for part in said), tuple(call for part in said for call in part.calls)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
class TestReader:
    def test_calls_alone_leave_no_text(self, size: int) -> None:
        assert read(f"{ONE}\n{OTHER}\n", size) == ("", CALLS)

    def test_text_around_calls_stays(self, size: int) -> None:
        assert read(f"Let me see. {ONE} and {OTHER} done", size) == ("Let me see.  and  done", CALLS)

    def test_what_is_no_call_is_text(self, size: int) -> None:
        for text in (
            "a < b <tool",
            "<tool_call>{'name'}</tool_call>",
            '<tool_call>{"arguments": {}}</tool_call>',
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call> so',
            '<tool_call>{"name": "f", "argu',
        ):
            assert read(text, size) == (text, ())

    def test_a_call_that_is_cut_off_is_text(self, size: int) -> None:
        text, calls = read(f"{ONE}\n{OTHER[:-4]}", size)
        assert calls == CALLS[:1]
        assert text == f"\n{OTHER[:-4]}"
