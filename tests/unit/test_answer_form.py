"""What form an answer may be asked for in, and how that is signed (R-30, R-70)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.job import params_hash
from retally.protocol.json_schema import MAX_DEPTH, check_json_schema
from retally.protocol.openai_request import params_of_body, prompt_of_body
from retally.protocol.params import JobParams
from retally.protocol.structure import MAX_SCHEMA_CHARACTERS, ResponseFormat, ToolChoice, grammar_of

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["b"]}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Finds", "parameters": SCHEMA}}
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def params(**body: Any) -> JobParams:
    return params_of_body({**BODY, **body}, "chat", 64, "2026-11-21")


def grammar(**body: Any) -> dict[str, Any]:
    text = grammar_of(params(**body), prompt_of_body({**BODY, **body}, "chat"))
    return json.loads(text)["format"] if text else {}


def response_format(schema: object, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def nested(depth: int) -> dict[str, Any]:
    return {"type": "string"} if depth == 0 else {"type": "array", "items": nested(depth - 1)}


class TestSigned:
    def test_a_schema_is_signed_as_text_in_the_order_of_its_keys(self) -> None:
        signed = params(response_format=response_format(SCHEMA, strict=True)).to_json()["responseFormat"]
        assert list(json.loads(signed["schema"])["properties"]) == ["b", "a"]
        assert JobParams.from_json(params(response_format=response_format(SCHEMA)).to_json()) == params(
            response_format=response_format(SCHEMA)
        )

    def test_another_order_of_keys_is_another_request(self) -> None:
        turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}  # type: ignore[attr-defined]
        one, other = (params(response_format=response_format(schema)) for schema in (SCHEMA, turned))
        assert params_hash(one) != params_hash(other)

    def test_no_schema_can_be_taken_for_another_parameter(self) -> None:
        """Contracts look for `"maxTokens":` and `,"logitBias":{},` in the canonical params."""
        spoof = {"const": {"a": 1, "logitBias": {}, "maxTokens": 1, "z": 1}}
        for body in ({"response_format": response_format(spoof)}, {"tools": [TOOL], "tool_choice": "required"}):
            text = json.dumps(params(**body).to_json(), separators=(",", ":"), sort_keys=True)
            assert text.count('"maxTokens":') == text.count(',"logitBias":{},') == 1

    def test_tools_are_part_of_the_prompt_and_none_of_them_where_none_may_be_called(self) -> None:
        prompt = prompt_of_body({**BODY, "tools": [TOOL]}, "chat")
        assert json.loads(prompt["tools"]) == [TOOL]
        assert "tools" not in prompt_of_body({**BODY, "tools": [TOOL], "tool_choice": "none"}, "chat")

    @pytest.mark.parametrize(
        "choice",
        [
            ToolChoice("auto"),
            ToolChoice("required", parallel=False),
            ToolChoice("function", "f"),
        ],
    )
    def test_a_tool_choice_survives_its_json(self, choice: ToolChoice) -> None:
        assert ToolChoice.from_json(choice.to_json()) == choice

    @pytest.mark.parametrize(
        "wire",
        [
            {"type": "auto", "name": "f"},
            {"type": "function"},
            {"type": "function", "name": 'f"'},
            {"type": "required"},
            {"type": "required", "parallel": 1},
            {"type": "sometimes"},
            "auto",
        ],
    )
    def test_other_tool_choices_are_refused(self, wire: object) -> None:
        with pytest.raises(BadRequest):
            ToolChoice.from_json(wire)

    @pytest.mark.parametrize(
        "wire",
        [
            {"type": "text", "schema": "{}"},
            {"type": "json_schema"},
            {"type": "json_schema", "schema": "{"},
            {"type": 1},
        ],
    )
    def test_other_response_formats_are_refused(self, wire: object) -> None:
        with pytest.raises(BadRequest):
            ResponseFormat.from_json(wire)


class TestGrammar:
    def test_free_text_has_none(self) -> None:
        assert grammar() == grammar(response_format={"type": "text"}) == grammar(tools=[TOOL]) == {}

    def test_of_a_schema(self) -> None:
        assert grammar(response_format=response_format(SCHEMA))["json_schema"] == SCHEMA

    def test_of_any_object(self) -> None:
        found = grammar(response_format={"type": "json_object"})["json_schema"]
        assert found == {"type": "object", "additionalProperties": True}

    def test_of_a_required_call(self) -> None:
        other = {"type": "function", "function": {"name": "other"}}
        tags = grammar(tools=[TOOL, other], tool_choice="required")["tags"]
        assert [tag["begin"] for tag in tags] == [
            '<tool_call>\n{"name": "look_up", "arguments": ',
            '<tool_call>\n{"name": "other", "arguments": ',
        ]

    def test_of_a_named_call(self) -> None:
        other = {"type": "function", "function": {"name": "other"}}
        named = {"type": "function", "function": {"name": "other"}}
        found = grammar(tools=[TOOL, other], tool_choice=named)
        assert len(found["tags"]) == 1
        assert found["stop_after_first"]

    def test_of_tools_that_are_strict(self) -> None:
        strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
        assert grammar(tools=[strict])["triggers"] == ["<tool_call>"]

    def test_tools_and_their_choice_must_fit(self) -> None:
        prompt = prompt_of_body({**BODY, "tools": [TOOL]}, "chat")
        with pytest.raises(BadRequest, match="tool choice"):
            grammar_of(params(), prompt)
        with pytest.raises(BadRequest, match="tool choice"):
            grammar_of(params(tools=[TOOL]), {"messages": BODY["messages"]})


class TestRefused:
    @pytest.mark.parametrize(
        "body",
        [
            {"response_format": {"type": "json_schema"}},
            {"response_format": response_format("x")},
            {"response_format": response_format(SCHEMA, extra=1)},
            {"response_format": response_format({"type": "string", "description": "x" * MAX_SCHEMA_CHARACTERS})},
            {"response_format": {"type": "json_object"}, "min_tokens": 5},
            {"response_format": {"type": "json_object"}, "tools": [TOOL]},
            {"tool_choice": "required"},
            {"tools": [TOOL], "tool_choice": "sometimes"},
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": "required", "min_tokens": 1},
        ],
    )
    def test_forms_that_nobody_could_enforce(self, body: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedParameter) as caught:
            params(**body)
        assert caught.value.status == 400

    @pytest.mark.parametrize(
        "tools",
        [
            "x",
            [{"type": "retrieval"}],
            [{"type": "function", "function": {"name": "has space"}}],
            [{"type": "function", "function": {"name": "f", "parameters": []}}],
            [{"type": "function", "function": {"name": "f", "colour": 1}}],
            [TOOL, TOOL],
            [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)],
        ],
    )
    def test_tools_that_are_none(self, tools: object) -> None:
        with pytest.raises(UnsupportedParameter):
            prompt_of_body({**BODY, "tools": tools}, "chat")

    def test_tools_that_are_too_many_to_be_enforced_at_once(self) -> None:
        wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}}
        tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": wide}} for n in range(5)]
        assert grammar(tools=tools) == {}
        with pytest.raises(UnsupportedParameter, match="too large"):
            grammar(tools=tools, tool_choice="required")

    def test_a_tool_that_is_not_there(self) -> None:
        with pytest.raises(BadRequest, match="no tool is named"):
            grammar(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}})

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "integer", "multipleOf": 3}, "multipleOf"),
            ({"not": {"type": "string"}}, "not"),
            ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, "allOf"),
            ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
            ({"type": "string", "pattern": r"(a)\1"}, "back-references"),
            ({"type": "string", "pattern": "a" * 257}, "256"),
            ({"type": "string", "pattern": "a", "maxLength": 3}, "pattern"),
            ({"type": "string", "format": "colour"}, "formats"),
            ({"type": "string", "maxLength": 10**6}, "maxLength"),
            ({"type": "array", "maxItems": -1}, "maxItems"),
            ({"$ref": "https://example.org/schema"}, "parts of itself"),
            ({"type": "thing"}, "type"),
            ({"enum": []}, "empty enum"),
            ({"properties": {"x": 5}}, "objects or true"),
            (nested(MAX_DEPTH + 1), "deeper"),
            ({"type": "object", "properties": {"a": True}, "maxProperties": 2}, "count the properties"),
            ({"type": "number", "maximum": 10**400}, "number"),
            ({"type": "string", "pattern": "(.{0,10}){0,10}"}, "too large"),
            ({"type": "object", "properties": {f"p{n}": True for n in range(200)}}, "too large"),
            ({"anyOf": [{"type": "string", "maxLength": n} for n in range(20)]}, "too large"),
        ],
    )
    def test_schemas_that_would_not_be_enforced(self, schema: dict[str, Any], said: str) -> None:
        with pytest.raises(UnsupportedParameter, match=said):
            check_json_schema(schema, "response_format")

    def test_an_ordinary_schema_is_not_too_large(self) -> None:
        plain = {f"p{n}": {"type": "string", "maxLength": 255} for n in range(100)}
        check_json_schema({"type": "object", "properties": plain, "required": list(plain)}, "x")
        check_json_schema({"type": "string", "pattern": r"^(\d{3}-){2}\d{4}$"}, "x")

    def test_constants_that_nest_too_deeply_are_refused(self) -> None:
        deep: Any = []
        for _ in range(500):
            deep = [deep]
        with pytest.raises(UnsupportedParameter, match="nests JSON"):
            params(response_format=response_format({"const": deep}))

    def test_a_property_may_have_the_name_of_a_keyword(self) -> None:
        check_json_schema({"type": "object", "properties": {"not": {"type": "string"}, "multipleOf": True}}, "x")


class TestMessages:
    def test_calls_and_their_results_are_signed(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"b": "x"}'}}
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        ]
        signed = prompt_of_body({**BODY, "messages": messages}, "chat")["messages"]
        assert signed[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
        assert signed[2] == {"role": "tool", "content": "42", "tool_call_id": "c1"}

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "tool", "content": "x"},
            {"role": "user", "content": "x", "tool_calls": [{"id": "c"}]},
            {"role": "assistant", "tool_calls": "x"},
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        ],
    )
    def test_half_a_call_is_refused(self, message: dict[str, Any]) -> None:
        with pytest.raises(BadRequest):
            prompt_of_body({**BODY, "messages": [message]}, "chat")
