"""Which JSON schemas an answer may be held to (R-70): what the grammar's library enforces, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retally.errors import UnsupportedParameter

MAX_SCHEMA_CHARACTERS = 16_384
MAX_DEPTH = 24
#: Of lengths and counts within a schema; what the grammar grows with.
MAX_COUNT = 10_000
MAX_PATTERN_CHARACTERS = 256

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
FORMATS = frozenset(
    {"email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference"}
    | {"uri-template", "json-pointer", "relative-json-pointer"}
)
_NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment"}
)
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ONE = frozenset({"items", "additionalProperties"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "definitions"})

Say = Callable[[str], UnsupportedParameter]


def check_json_schema(schema: object, param: str) -> None:
    """Raises UnsupportedParameter for a schema that would not be enforced as it stands; `param` is named in it."""
    _check(schema, lambda reason: UnsupportedParameter(param, reason), 0)


def _check(schema: object, say: Say, depth: int) -> None:
    if schema is True:
        return
    if depth > MAX_DEPTH:
        raise say(f"nests schemas deeper than {MAX_DEPTH}")
    if not isinstance(schema, Mapping):
        raise say("must hold schemas, which are objects or true")
    for keyword, value in schema.items():
        _check_keyword(keyword, value, say, depth)
    if "pattern" in schema and schema.keys() & {"minLength", "maxLength", "format"}:
        raise say("can't hold a string to a pattern and to something else")
    if "format" in schema and schema.keys() & {"minLength", "maxLength"}:
        raise say("can't hold a string to a format and to a length")


def _check_keyword(keyword: str, value: Any, say: Say, depth: int) -> None:
    if keyword in _NOTES or keyword == "const":
        return
    if keyword in _MAPS:
        for part in _mapping(keyword, value, say).values():
            _check(part, say, depth + 1)
    elif keyword in _LISTS:
        for part in _list(keyword, value, say):
            _check(part, say, depth + 1)
        if keyword == "allOf" and len(value) > 1:
            raise say("can't hold an answer to several schemas at once: give allOf one, or merge them")
    elif keyword in _ONE:
        if value is not False:
            _check(value, say, depth + 1)
    else:
        _check_value(keyword, value, say)


def _check_value(keyword: str, value: Any, say: Say) -> None:
    if keyword == "type":
        named = value if isinstance(value, list) else [value]
        if not named or any(not isinstance(name, str) or name not in TYPES for name in named):
            raise say(f"names a type other than {', '.join(sorted(TYPES))}")
    elif keyword in ("enum", "required"):
        if not _list(keyword, value, say) and keyword == "enum":
            raise say("has an empty enum, which no answer fits")
    elif keyword in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise say(f"must have a {keyword} between 0 and {MAX_COUNT}")
    elif keyword in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise say(f"must have a number for {keyword}")
    elif keyword == "pattern":
        if not isinstance(value, str) or len(value) > MAX_PATTERN_CHARACTERS or _looks_around(value):
            raise say(
                f"may hold patterns of {MAX_PATTERN_CHARACTERS} characters, without look-around and back-references"
            )
    elif keyword == "format":
        if value not in FORMATS:
            raise say(f"knows the formats {', '.join(sorted(FORMATS))}")
    elif keyword == "$ref":
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise say("may refer only to parts of itself ('#/…')")
    else:
        raise say(f"uses the keyword {keyword[:40]!r}, which can't be enforced; leave it out")


def _looks_around(pattern: str) -> bool:
    plain = pattern.replace("\\\\", "")
    extensions = plain.count("(?") - plain.count("(?:")
    return extensions > 0 or any(f"\\{digit}" in plain for digit in "123456789")


def _mapping(keyword: str, value: object, say: Say) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise say(f"must have an object for {keyword}")
    return value


def _list(keyword: str, value: object, say: Say) -> list[Any]:
    if not isinstance(value, list):
        raise say(f"must have a list for {keyword}")
    return value
