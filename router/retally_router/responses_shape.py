"""A chat answer as OpenAI's Response: the object, and the events of its stream in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = dict[str, Any]


def event_of(value: Mapping[str, Any]) -> bytes:
    """One event, named by its type."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


def response_of(answer: Mapping[str, Any], echo: Mapping[str, Any]) -> Json:
    """A whole chat answer as a Response."""
    retally = answer.get("retally") or {}
    choice = answer["choices"][0]
    shape = Shape(echo, answer["model"], int(answer["created"] or 0), _name_of(str(answer["id"])))
    shape.text = choice["message"]["content"] or ""
    shape.finish, shape.usage = choice["finish_reason"], answer.get("usage")
    return shape.response(shape.status) | {"retally": retally}


@dataclass(slots=True)
class Shape:
    """What is known of one response so far."""

    echo: Mapping[str, Any]
    model: str
    created: int
    name: str
    text: str = ""
    finish: str | None = None
    usage: Mapping[str, Any] | None = None

    @property
    def status(self) -> str:
        """How it ended."""
        return "completed" if self.finish == "stop" else "incomplete"

    def response(self, status: str, error: Json | None = None) -> Json:
        """The Response object."""
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self.echo,
            "id": "resp_" + self.name,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": error,
            "incomplete_details": cut,
            "model": self.model,
            "output": [] if status in ("in_progress", "failed") else [self.message(status)],
            "background": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": None if self.usage is None else _usage(self.usage),
        }

    def message(self, status: str) -> Json:
        """The output's only item."""
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self) -> Json:
        """The message's only part."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    @property
    def item(self) -> str:
        """The message's id."""
        return "msg_" + self.name


@dataclass(slots=True)
class ResponseEvents:
    """Chat frames in, events out."""

    echo: Mapping[str, Any]
    shape: Shape | None = None
    number: int = 0
    retally: Json = field(default_factory=lambda: {"receipts": []})

    def take(self, frame: Mapping[str, Any]) -> bytes:
        """The events that a chat frame makes."""
        if "error" in frame:
            return self.fail(frame["error"])
        out = [] if self.shape is not None else self._open(frame)
        assert self.shape is not None
        extra = frame.get("retally") or {}
        self._note(extra)
        if frame.get("usage"):
            self.shape.usage = frame["usage"]
        for choice in frame.get("choices") or ():
            text = (choice.get("delta") or {}).get("content") or ""
            self.shape.text += text
            self.shape.finish = choice.get("finish_reason") or self.shape.finish
            # A frame without text may carry a signed chunk or a receipt: those must not be lost.
            if text or extra.get("ids") or extra.get("receipt"):
                out.append(self._delta(text, extra))
        return b"".join(out)

    def end(self) -> bytes:
        """The events after the last frame."""
        shape = self.shape
        if shape is None:
            return b""
        status = shape.status
        done = {"text": shape.text, "logprobs": []}
        final = shape.response(status) | {"retally": self.retally}
        return b"".join(
            (
                self._event("response.output_text.done", **self._place, **done),
                self._event("response.content_part.done", **self._place, part=shape.part()),
                self._event("response.output_item.done", output_index=0, item=shape.message(status)),
                self._event(f"response.{status}", response=final),
            )
        )

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The end of a stream that broke off: the error in full, then the failed response."""
        known = {name: error.get(name) for name in ("code", "message", "param")}
        out = self._event("error", **known)
        if self.shape is not None:
            told = {"code": "server_error", "message": error.get("message")}
            final = self.shape.response("failed", told) | {"retally": self.retally}
            out += self._event("response.failed", response=final)
        self.shape = None
        return out

    def _open(self, frame: Mapping[str, Any]) -> list[bytes]:
        shape = Shape(self.echo, frame["model"], int(frame["created"]), _name_of(str(frame["id"])))
        self.shape = shape
        empty = shape.response("in_progress")
        return [
            self._event("response.created", response=empty),
            self._event("response.in_progress", response=empty),
            self._event("response.output_item.added", output_index=0, item=shape.message("in_progress")),
            self._event("response.content_part.added", **self._place, part=shape.part()),
        ]

    def _delta(self, text: str, extra: Mapping[str, Any]) -> bytes:
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[], retally=extra)

    def _note(self, extra: Mapping[str, Any]) -> None:
        if extra.get("jobId"):
            self.retally["jobId"] = extra["jobId"]
        if extra.get("receipt"):
            self.retally["receipts"].append({"receipt": extra["receipt"], "signature": extra.get("receiptSignature")})
            fees = [
                int(item["receipt"]["cumTo"]) - int(item["receipt"]["cumFrom"]) for item in self.retally["receipts"]
            ]
            self.retally["cost"] = str(sum(fees))

    @property
    def _place(self) -> Json:
        assert self.shape is not None
        return {"item_id": self.shape.item, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **values: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return event_of({"type": kind, "sequence_number": number, **values})


def _name_of(chat_id: str) -> str:
    return chat_id.removeprefix("chatcmpl-")


def _usage(usage: Mapping[str, Any]) -> Json:
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
