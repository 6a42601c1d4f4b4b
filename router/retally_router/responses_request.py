"""From a body of /v1/responses to the chat request that it stands for; what a stateless router can't do is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest, UnsupportedParameter

Json = dict[str, Any]

# The same name, and the same meaning, in a chat request; the last two lines are our own extensions.
_PASSED = (
    *("model", "stream", "temperature", "top_p", "user", "metadata", "safety_identifier", "prompt_cache_key"),
    *("seed", "stop", "logit_bias", "frequency_penalty", "presence_penalty", "provider"),
    *("top_k", "min_p", "min_tokens", "repetition_penalty"),
)
# All that may be said in so many words without asking for anything.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "include": (None, []),
    "max_tool_calls": (None,),
    "parallel_tool_calls": (None, True, False),
    "reasoning": (None, {}, {"effort": None}, {"effort": "none"}),
    "service_tier": (None, "auto", "default"),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
}
_STATEFUL = {
    "store": "keeps no answers: send `store: false`, or leave it out",
    "previous_response_id": "keeps no answers: send the whole conversation as `input`",
    "conversation": "keeps no conversations: send the whole conversation as `input`",
    "prompt": "keeps no prompt templates: send the text as `input`",
}
_OWN = frozenset({"input", "instructions", "max_output_tokens", "text", "stream_options"})
_PART_TYPES = frozenset({"input_text", "output_text", "text"})
# What clients send back of an earlier answer, beside its text.
_ITEM_FIELDS = frozenset({"type", "role", "content", "id", "status", "phase"})
_PARAMS = {"max_tokens": "max_output_tokens", "messages": "input", "response_format": "text.format"}
_ECHOED = ("instructions", "max_output_tokens", "metadata", "temperature", "top_p", "user", "safety_identifier")


@dataclass(frozen=True, slots=True)
class ResponseAsk:
    """A chat body, and what of the request its response repeats."""

    chat: Json
    stream: bool
    echo: Json


def read_response_ask(body: Mapping[str, Any]) -> ResponseAsk:
    """The chat request behind a body; raises with the field that this router can't serve."""
    _refuse_unserved(body)
    chat: Json = {name: body[name] for name in _PASSED if body.get(name) is not None}
    chat["messages"] = [*_instructions(body.get("instructions")), *_input(body.get("input"))]
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    chat.update(_text(body.get("text")))
    stream = body.get("stream") is True
    _check_stream_options(body.get("stream_options"), stream=stream)
    if stream:
        chat["stream_options"] = {"include_usage": True}
    echo = {name: body.get(name) for name in _ECHOED}
    echo |= {"tool_choice": body.get("tool_choice") or "auto", "tools": []}
    echo["parallel_tool_calls"] = body.get("parallel_tool_calls") is not False
    return ResponseAsk(chat, stream, echo | {"text": body.get("text") or {"format": {"type": "text"}}})


def param_of_response(param: object) -> object:
    """The field of /v1/responses that an error about the chat request is about."""
    if not isinstance(param, str):
        return param
    name, bracket, rest = param.partition("[")
    return _PARAMS.get(name, name) + bracket + rest


def _refuse_unserved(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in _STATEFUL:
            if value is not None and value is not False:
                raise UnsupportedParameter(name, f"is not served: this router {_STATEFUL[name]}")
        elif name in _NEUTRAL:
            if not any(value is allowed or value == allowed for allowed in _NEUTRAL[name]):
                raise UnsupportedParameter(name, "is not served by /v1/responses here: text in, text out")
        elif name not in _OWN and name not in _PASSED:
            raise UnsupportedParameter(name)


def _instructions(value: object) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, str):
        raise BadRequest("instructions must be a string", param="instructions")
    return [{"role": "system", "content": value}]


def _input(value: object) -> list[Json]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise BadRequest("input must be a string or a list of at least one message", param="input")
    return [_message(f"input[{index}]", item) for index, item in enumerate(value)]


def _message(param: str, item: object) -> Json:
    if not isinstance(item, dict):
        raise BadRequest(f"{param} must be an object", param=param)
    if item.get("type", "message") != "message":
        raise UnsupportedParameter(f"{param}.type", "must be message: this router takes text only")
    for name in item.keys() - _ITEM_FIELDS:
        raise UnsupportedParameter(f"{param}.{name}")
    return {"role": item.get("role"), "content": _content(param, item.get("content"))}


def _content(param: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRequest(f"{param}.content must be text", param=f"{param}.content")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _PART_TYPES or not isinstance(part.get("text"), str):
            raise UnsupportedParameter(f"{param}.content", "may hold parts of text only")
        texts.append(part["text"])
    return "".join(texts)


def _text(value: object) -> Json:
    """`text.format` as chat's `response_format`; whether a format is served, the chat path says."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest("text must be an object", param="text")
    for name in value.keys() - {"format", "verbosity"}:
        raise UnsupportedParameter(f"text.{name}")
    if value.get("verbosity") not in (None, "medium"):
        raise UnsupportedParameter("text.verbosity")
    shape = value.get("format")
    if shape is None:
        return {}
    if not isinstance(shape, dict):
        raise BadRequest("text.format must be an object", param="text.format")
    if shape.get("type") == "json_schema":
        named = {name: item for name, item in shape.items() if name != "type"}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"response_format": shape}


def _check_stream_options(value: object, *, stream: bool) -> None:
    if value is None:
        return
    if not stream:
        raise BadRequest("stream_options needs stream: true", param="stream_options")
    if not isinstance(value, dict) or value.keys() - {"include_obfuscation"}:
        raise UnsupportedParameter("stream_options", "knows include_obfuscation only")
