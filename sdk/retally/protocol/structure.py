"""What form an answer must have, as signed in its params, and the grammar that follows from it (R-70, R-71)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.encoding import check_fields, parse_object
from retally.protocol.json_schema import MAX_SCHEMA_CHARACTERS, check_cost, check_json_schema

if TYPE_CHECKING:
    from retally.protocol.params import JobParams

MAX_TOOLS = 128
MAX_TOOLS_CHARACTERS = 65_536
TOOLS_TEMPLATE_TOKENS = 1024
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: How a tool is called in an answer's text (R-71).
CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"

FORMAT_TYPES = ("text", "json_object", "json_schema")
CHOICE_TYPES = ("none", "auto", "required", "function")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """Free text, any JSON object, or the JSON of one schema; the schema is text, since the order of its keys counts."""

    type: str = "text"
    schema: str = ""

    def __post_init__(self) -> None:
        if self.type not in FORMAT_TYPES:
            raise UnsupportedParameter("responseFormat", f"must be one of {', '.join(FORMAT_TYPES)}")
        if self.type == "json_schema":
            check_json_schema(read_json_text("responseFormat", self.schema, MAX_SCHEMA_CHARACTERS), "responseFormat")
        elif self.schema:
            raise UnsupportedParameter("responseFormat", "takes a schema with json_schema only")

    def to_json(self) -> dict[str, Any]:
        """The part of the params."""
        return {"type": self.type, "schema": self.schema} if self.type == "json_schema" else {"type": self.type}

    @classmethod
    def from_json(cls, value: object) -> ResponseFormat:
        """The format of that part; strict."""
        wire = parse_object("responseFormat", value)
        named = {"type", "schema"} if wire.get("type") == "json_schema" else {"type"}
        check_fields("responseFormat", wire, named)
        return cls(_text("responseFormat", wire["type"]), _text("responseFormat", wire.get("schema", "")))


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether an answer may call tools (auto), must (required, function) or has none."""

    type: str = "none"
    #: The function that must be called.
    name: str = ""
    #: Whether a required answer may hold several calls.
    parallel: bool = True

    def __post_init__(self) -> None:
        if self.type not in CHOICE_TYPES:
            raise UnsupportedParameter("toolChoice", f"must be one of {', '.join(CHOICE_TYPES)}")
        if (self.type == "function") != bool(self.name) or (self.name and not TOOL_NAME.fullmatch(self.name)):
            raise UnsupportedParameter("toolChoice", "must name a function exactly where its type is function")
        if not self.parallel and self.type != "required":
            raise UnsupportedParameter("toolChoice", "can forbid parallel calls with required only")

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.type in ("required", "function")

    def to_json(self) -> dict[str, Any]:
        """The part of the params."""
        if self.type == "function":
            return {"type": self.type, "name": self.name}
        return {"type": self.type, "parallel": self.parallel} if self.type == "required" else {"type": self.type}

    @classmethod
    def from_json(cls, value: object) -> ToolChoice:
        """The choice of that part; strict."""
        wire = parse_object("toolChoice", value)
        more = {"function": {"name"}, "required": {"parallel"}}.get(str(wire.get("type")), set())
        check_fields("toolChoice", wire, {"type"} | more)
        parallel = wire.get("parallel", True)
        if not isinstance(parallel, bool):
            raise BadRequest("toolChoice.parallel must be true or false", param="toolChoice")
        return cls(_text("toolChoice", wire["type"]), _text("toolChoice", wire.get("name", "")), parallel)


def tools_of(prompt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a prompt (R-11); raises where they are none."""
    if prompt.get("tools") is None:
        return []
    tools = read_json_text("tools", prompt["tools"], MAX_TOOLS_CHARACTERS)
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise UnsupportedParameter("tools", f"must be a list of 1 to {MAX_TOOLS} tools")
    names = [_check_tool(tool) for tool in tools]
    if len(set(names)) < len(names):
        raise UnsupportedParameter("tools", "names a function twice")
    return tools


def tools_tokens_at_most(prompt: Mapping[str, Any]) -> int:
    """What tools can add to a prompt in tokens: a template writes each once, with blanks, and explains calls."""
    text = prompt.get("tools")
    # A blank behind each comma and colon at most doubles what was signed.
    return 2 * len(text.encode(errors="surrogatepass")) + TOOLS_TEMPLATE_TOKENS if isinstance(text, str) else 0


def grammar_of(params: JobParams, prompt: Mapping[str, Any]) -> str:
    """The structural tag that an answer is held to (R-70), as JSON text; empty where it is free.

    Raises where params and prompt don't fit each other.
    """
    choice, tools = params.tool_choice, tools_of(prompt)
    if bool(tools) != (choice.type != "none"):
        raise BadRequest("tools go with a tool choice other than none", param="toolChoice")
    if choice.is_forced:
        return _tag(_forced_calls(choice, tools))
    if params.response_format.type != "text":
        return _tag(_json_format(params.response_format))
    if any(tool["function"].get("strict") for tool in tools):
        return _tag({"type": "triggered_tags", "triggers": [CALL_BEGIN], "tags": _calls(tools)})
    return ""


def _forced_calls(choice: ToolChoice, tools: list[dict[str, Any]]) -> dict[str, Any]:
    called = [tool for tool in tools if choice.type == "required" or tool["function"]["name"] == choice.name]
    if not called:
        raise BadRequest(f"no tool is named {choice.name}", param="tool_choice")
    return {
        "type": "tags_with_separator",
        "tags": _calls(called),
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": choice.type == "function" or not choice.parallel,
    }


def _calls(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them are compiled into one grammar."""
    check_cost(sum(check_json_schema(_parameters(tool), "tools") for tool in tools), "tools")
    return [_call(tool) for tool in tools]


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def _call(tool: dict[str, Any]) -> dict[str, Any]:
    function, parameters = tool["function"], _parameters(tool)
    begin = f'{CALL_BEGIN}\n{{"name": "{function["name"]}", "arguments": '
    return {"type": "tag", "begin": begin, "content": _schema(parameters), "end": f"}}\n{CALL_END}"}


def _json_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.type == "json_object":
        return _schema({"type": "object", "additionalProperties": True})
    return _schema(json.loads(wanted.schema))


def _schema(schema: object) -> dict[str, Any]:
    # One blank at most between parts: free white space is where small models never come back from.
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}


def _tag(form: dict[str, Any]) -> str:
    return json_text({"type": "structural_tag", "format": form})


def json_text(value: object) -> str:
    """JSON text that keeps the order of keys; raises BadRequest where there is none."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON that can be signed: {error}") from error


def read_json_text(name: str, text: object, most: int) -> Any:
    """The value of bounded JSON text; raises UnsupportedParameter."""
    if not isinstance(text, str) or len(text) > most:
        raise UnsupportedParameter(name, f"must be JSON text of at most {most} characters")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnsupportedParameter(name, f"is no JSON: {error}") from error


def _check_tool(tool: object) -> str:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or function.keys() - {"name", "description", "parameters", "strict"}:
        raise UnsupportedParameter("tools", "must be functions with name, description, parameters and strict")
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise UnsupportedParameter("tools", "must have names of 1 to 64 letters, digits, _ and -")
    if not isinstance(function.get("description") or "", str):
        raise UnsupportedParameter("tools", "must have text for a description")
    if not isinstance(function.get("parameters", {}), dict | None):
        raise UnsupportedParameter("tools", "must have an object for parameters")
    if function.get("strict") not in (None, True, False):
        raise UnsupportedParameter("tools", "must have true or false for strict")
    return name


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} must hold text", param=name)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
