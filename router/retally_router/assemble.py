"""A plain answer out of the frames of a stream: same text, same cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


class Assembly:
    """Collects a streamed answer into one OpenAI object."""

    def __init__(self, endpoint: str) -> None:
        self._chat = endpoint == "chat"
        self._base: Json = {}
        self._texts: dict[int, list[str]] = {}
        self._calls: dict[int, list[Json]] = {}
        self._logprobs: dict[int, Json] = {}
        self._finishes: dict[int, str | None] = {}
        self._quantised: dict[int, list[int]] = {}
        self._usage: Json | None = None

    def add(self, frame: Mapping[str, Any]) -> None:
        """Takes one frame in."""
        if not self._base:
            self._base = {name: frame.get(name) for name in ("id", "created", "model")}
        if frame.get("usage"):
            self._usage = frame["usage"]
        extra = frame.get("retally") or {}
        if extra.get("ids"):
            self._quantised.setdefault(extra["choice"], []).extend(extra["q"])
        for choice in frame.get("choices") or ():
            self._add_choice(choice)

    def body(self, retally: Mapping[str, Any]) -> Json:
        """The whole answer."""
        name = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(index) for index in sorted(self._texts)]
        q = {str(index): values for index, values in sorted(self._quantised.items())}
        return {**self._base, "object": name, "choices": choices, "usage": self._usage, "retally": {**retally, "q": q}}

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice["index"]
        texts = self._texts.setdefault(index, [])
        text = (choice.get("delta") or {}).get("content") if self._chat else choice.get("text")
        if text:
            texts.append(text)
        for call in (choice.get("delta") or {}).get("tool_calls") or ():
            # A node sends each call whole, with its place among them.
            self._calls.setdefault(index, []).append({name: call[name] for name in call if name != "index"})
        if choice.get("logprobs"):
            _join(self._logprobs.setdefault(index, {}), choice["logprobs"])
        if choice.get("finish_reason") is not None:
            self._finishes[index] = choice["finish_reason"]

    def _choice(self, index: int) -> Json:
        text = "".join(self._texts[index])
        shaped: Json = {"index": index}
        if self._chat:
            shaped["message"] = {"role": "assistant", "content": text, "refusal": None}
            if index in self._calls:
                shaped["message"] |= {"content": text or None, "tool_calls": self._calls[index]}
        else:
            shaped["text"] = text
        return {**shaped, "logprobs": self._logprobs.get(index), "finish_reason": self._finishes.get(index)}


def _join(whole: Json, part: Mapping[str, Any]) -> None:
    for name, values in part.items():
        if isinstance(values, list):
            whole.setdefault(name, []).extend(values)
        else:
            whole.setdefault(name, values)


def receipts_of(leaves: Iterable[Any]) -> list[Json]:
    """Receipts as clients get them."""
    return [{"receipt": leaf.receipt.to_wire(), "signature": "0x" + leaf.signature.hex()} for leaf in leaves]
