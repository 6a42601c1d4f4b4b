"""The messages of an OpenAI chat request, as a prompt signs them (R-11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.structure import TOOL_NAME

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
#: What a message may have beside role and content.
_MORE: Mapping[str, frozenset[str]] = {
    "assistant": frozenset({"tool_calls"}),
    "tool": frozenset({"tool_call_id"}),
}
MAX_ID_CHARACTERS = 128


def messages_of(value: object) -> list[dict[str, Any]]:
    """The messages of a body; strict."""
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list of at least one message", param="messages")
    return [_message(f"messages[{index}]", item) for index, item in enumerate(value)]


def _message(param: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{param} must be an object", param=param)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise UnsupportedParameter(f"{param}.role", f"must be one of {', '.join(sorted(_ROLES))}")
    for name, item in value.items():
        if name not in ("role", "content") and name not in _MORE.get(role, ()) and item is not None:
            raise UnsupportedParameter(f"{param}.{name}")
    if role == "tool":
        answered = _id(f"{param}.tool_call_id", value.get("tool_call_id"))
        return {"role": role, "content": _content(param, value.get("content")), "tool_call_id": answered}
    if value.get("tool_calls"):
        # An assistant that only called tools said nothing.
        content = value.get("content")
        said = "" if content is None else _content(param, content)
        return {"role": role, "content": said, "tool_calls": _calls(f"{param}.tool_calls", value["tool_calls"])}
    return {"role": role, "content": _content(param, value.get("content"))}


def _calls(param: str, value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise BadRequest(f"{param} must be a list", param=param)
    return [_call(f"{param}[{index}]", item) for index, item in enumerate(value)]


def _call(param: str, value: object) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or value.get("type") != "function":
        raise UnsupportedParameter(param, "must be a function call")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name) or not isinstance(arguments, str):
        raise BadRequest(f"{param}.function must have a name, and arguments as JSON text", param=param)
    called = {"name": name, "arguments": arguments}
    return {"id": _id(f"{param}.id", value.get("id")), "type": "function", "function": called}


def _id(param: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS:
        raise BadRequest(f"{param} must be text of 1 to {MAX_ID_CHARACTERS} characters", param=param)
    return value


def _content(param: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRequest(f"{param}.content must be text", param=f"{param}.content")
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UnsupportedParameter(f"{param}.content", "may hold text parts only")
        texts.append(part["text"])
    return "".join(texts)
