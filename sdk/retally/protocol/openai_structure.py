"""What an OpenAI body says of an answer's form: response_format, tools, tool_choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.errors import UnsupportedParameter
from retally.protocol.json_schema import check_json_schema
from retally.protocol.structure import ResponseFormat, ToolChoice, json_text, tools_of


def response_format_of(value: object) -> ResponseFormat:
    """The form of the whole answer; strict or not, a schema is always enforced."""
    if value is None:
        return ResponseFormat()
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        raise UnsupportedParameter("response_format", "must have the type text, json_object or json_schema")
    if value["type"] != "json_schema":
        if value.keys() != {"type"}:
            raise UnsupportedParameter("response_format", f"has nothing beside its type {value['type']}")
        return ResponseFormat(value["type"])
    named = value.get("json_schema")
    if not isinstance(named, dict) or named.keys() - {"name", "description", "schema", "strict"}:
        raise UnsupportedParameter("response_format", "must have a json_schema with name, schema and strict")
    if not isinstance(named.get("schema"), dict):
        raise UnsupportedParameter("response_format", "must have an object in json_schema.schema")
    # Here it is named as the client knows it.
    check_json_schema(named["schema"], "response_format")
    return ResponseFormat("json_schema", json_text(named["schema"]))


def tools_text_of(body: Mapping[str, Any]) -> str:
    """The tools that the prompt signs, as JSON text in the client's order; empty where there are none to call."""
    tools = body.get("tools")
    if not tools or body.get("tool_choice") == "none":
        return ""
    text = json_text(tools)
    tools_of({"tools": text})
    return text


def tool_choice_of(body: Mapping[str, Any]) -> ToolChoice:
    """Whether tools may or must be called."""
    value, parallel = body.get("tool_choice"), body.get("parallel_tool_calls")
    if parallel not in (None, True, False):
        raise UnsupportedParameter("parallel_tool_calls", "must be true or false")
    if not body.get("tools"):
        if value not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "needs tools")
        return ToolChoice()
    if value == "none":
        return ToolChoice()
    if isinstance(value, dict):
        function = value.get("function")
        if value.get("type") != "function" or not isinstance(function, dict):
            raise UnsupportedParameter("tool_choice", "must be none, auto, required or a function")
        return ToolChoice("function", str(function.get("name") or ""))
    if value == "required":
        return ToolChoice("required", parallel=parallel is not False)
    if value not in (None, "auto"):
        raise UnsupportedParameter("tool_choice", "must be none, auto, required or a function")
    if parallel is False:
        raise UnsupportedParameter("parallel_tool_calls", "can be false only where tool_choice requires a call")
    return ToolChoice("auto")
