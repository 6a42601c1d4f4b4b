"""Answers in OpenAI's shapes; what retally adds sits in one extra top-level field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from retally.inference.tool_calls import ToolCall
from retally.protocol.receipt import FinishReason

Json = dict[str, Any]

ID_PREFIXES = {"chat": "chatcmpl-", "text": "cmpl-", "embeddings": "embd-"}
FINISH_NAMES = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL: "tool_calls",
}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its raw logprob and the most likely ones in its place."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a whole answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def to_json(self) -> Json:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(slots=True)
class ChoiceAnswer:
    """One finished choice of a plain answer."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)


class Step(Protocol):
    """What one frame adds to a choice."""

    @property
    def choice(self) -> int:
        """Which choice."""

    @property
    def text(self) -> str:
        """New text."""

    @property
    def calls(self) -> Sequence[ToolCall]:
        """Tools that it called."""

    @property
    def tokens(self) -> Sequence[TokenLogprob]:
        """The tokens behind both."""

    @property
    def finish(self) -> FinishReason | None:
        """Why it was the last, if it was."""


class OpenAiShape:
    """Shapes the frames and objects of one answer."""

    def __init__(
        self,
        endpoint: str,
        job_id: bytes,
        model: str,
        created: int,
        with_logprobs: bool,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._chat = endpoint == "chat"
        self._job_id = job_id
        self._with_logprobs = with_logprobs
        self._token_bytes = token_bytes
        self._text_offsets: dict[int, int] = {}
        self._base = {
            "id": ID_PREFIXES[endpoint] + job_id.hex()[:24],
            "object": "",
            "created": created,
            "model": model,
        }

    def opening(self, index: int, retally: Json) -> Json | None:
        """The frame that names the role, in chat only."""
        if not self._chat:
            return None
        delta = {"role": "assistant", "content": ""}
        return self._frame({"index": index, "delta": delta, "logprobs": None, "finish_reason": None}, retally)

    def delta(self, step: Step, retally: Json) -> Json:
        """A frame with new text or calls, and the finish reason on the last."""
        body: Json = {"index": step.choice}
        if self._chat:
            body["delta"] = {"content": step.text} if step.text or not (step.calls or step.finish) else {}
            if step.calls:
                body["delta"]["tool_calls"] = [self._call(step.choice, call, streamed=True) for call in step.calls]
        else:
            body["text"] = step.text
        body["logprobs"] = self._logprobs(step.choice, step.tokens) if step.tokens else None
        body["finish_reason"] = None if step.finish is None else FINISH_NAMES[step.finish]
        return self._frame(body, retally)

    def _call(self, choice: int, call: ToolCall, *, streamed: bool) -> Json:
        """A call as OpenAI shows it; its id follows from the job, so that whoever goes on names it the same."""
        place = {"index": call.index} if streamed else {}
        name = f"call_{self._job_id.hex()[:24]}_{choice}_{call.index}"
        called = {"name": call.name, "arguments": call.arguments}
        return {**place, "id": name, "type": "function", "function": called}

    def usage_frame(self, usage: Usage, retally: Json) -> Json:
        """The closing frame a client gets that asked for usage."""
        return {**self._base, "object": self._frame_object, "choices": [], "usage": usage.to_json(), "retally": retally}

    def whole(self, choices: Sequence[ChoiceAnswer], usage: Usage, retally: Json) -> Json:
        """A plain answer."""
        shaped = [self._whole_choice(choice) for choice in sorted(choices, key=lambda choice: choice.index)]
        name = "chat.completion" if self._chat else "text_completion"
        return {**self._base, "object": name, "choices": shaped, "usage": usage.to_json(), "retally": retally}

    @property
    def _frame_object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _frame(self, choice: Json, retally: Json) -> Json:
        return {**self._base, "object": self._frame_object, "choices": [choice], "retally": retally}

    def _whole_choice(self, choice: ChoiceAnswer) -> Json:
        body: Json = {"index": choice.index}
        if self._chat:
            body["message"] = self._message(choice)
        else:
            body["text"] = choice.text
        body["logprobs"] = self._logprobs(choice.index, choice.logprobs)
        body["finish_reason"] = FINISH_NAMES[choice.finish_reason]
        return body

    def _message(self, choice: ChoiceAnswer) -> Json:
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [self._call(choice.index, call, streamed=False) for call in choice.calls]
        return message

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> Json | None:
        if not self._with_logprobs:
            return None
        return self._chat_logprobs(tokens) if self._chat else self._text_logprobs(index, tokens)

    def _chat_logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        content = [
            {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(*top) for top in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> Json:
        raw = self._token_bytes(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    def _text_logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> Json:
        names = [self._name(token.id) for token in tokens]
        offsets = []
        for name in names:
            offsets.append(self._text_offsets.get(index, 0))
            self._text_offsets[index] = offsets[-1] + len(name)
        tops = [{self._name(top_id): logprob for top_id, logprob in token.top} for token in tokens]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _name(self, token_id: int) -> str:
        return self._token_bytes(token_id).decode("utf-8", "replace")
