"""A plain answer out of the frames of a stream: same text, same cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from retally.errors import NodeUnavailable
from retally_router.frames import ChoiceView, Frame, WholeView

Json = dict[str, Any]


class Assembly:
    """Collects a streamed answer into one OpenAI object."""

    def __init__(self, endpoint: str) -> None:
        self._chat = endpoint == "chat"
        self._base: Json = {}
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, Json] = {}
        self._finishes: dict[int, str | None] = {}
        self._quantised: dict[int, list[int]] = {}
        self._usage: msgspec.Raw | None = None

    def add(self, frame: Frame) -> None:
        """Takes one frame in; raises NodeUnavailable when it is none of OpenAI's."""
        view = frame.view
        if not isinstance(view, WholeView):
            raise NodeUnavailable("the node sent a frame that is none of OpenAI's")
        if not self._base:
            self._base = {"id": view.id, "created": view.created, "model": view.model}
        if frame.has_usage:
            self._usage = view.usage
        extra = frame.extra
        if extra is not None and extra.ids and extra.choice is not None:
            self._quantised.setdefault(extra.choice, []).extend(extra.q)
        for choice in view.choices:
            self._add_choice(choice)

    def body(self, retally: Mapping[str, Any]) -> Json:
        """The whole answer."""
        name = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(index) for index in sorted(self._texts)]
        q = {str(index): values for index, values in sorted(self._quantised.items())}
        return {**self._base, "object": name, "choices": choices, "usage": self._usage, "retally": {**retally, "q": q}}

    def _add_choice(self, choice: ChoiceView) -> None:
        texts = self._texts.setdefault(choice.index, [])
        text = (choice.delta.content if choice.delta is not None else None) if self._chat else choice.text
        if text:
            texts.append(text)
        if choice.logprobs:
            _join(self._logprobs.setdefault(choice.index, {}), choice.logprobs)
        if choice.finish_reason is not None:
            self._finishes[choice.index] = choice.finish_reason

    def _choice(self, index: int) -> Json:
        text = "".join(self._texts[index])
        shaped: Json = {"index": index}
        if self._chat:
            shaped["message"] = {"role": "assistant", "content": text, "refusal": None}
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
