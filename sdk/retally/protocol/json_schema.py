"""Which JSON schemas an answer may be held to (R-70): what the grammar's library enforces, within bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from retally.errors import UnsupportedParameter

MAX_SCHEMA_CHARACTERS = 16_384
MAX_DEPTH = 24
MAX_LEVELS = 96
#: Compiling a grammar takes a time that grows with these; a schema's sum is bounded, so that it stays about a second.
MAX_COST = 4096
SCHEMA_COST, ANYTHING_COST, BOUND_COST, FORMAT_COST, PATTERN_COST, LENGTH_COST = 10, 30, 10, 20, 100, 400
MAX_PATTERN_CHARACTERS = 256
MAX_NUMBER = 2**53 - 1

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
#: Without one of these a schema stands for any JSON.
_SAYING = frozenset({"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"})
_MAPS = frozenset({"properties", "$defs", "definitions"})

_COUNTED = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")

Say = Callable[[str], UnsupportedParameter]


def check_json_schema(schema: object, param: str) -> int:
    """The cost of a schema; raises UnsupportedParameter where it would not be enforced as it stands."""
    check = _Check(lambda reason: UnsupportedParameter(param, reason))
    # Also within constants and examples, which the grammar's library reads by recursion.
    if _levels(schema) > MAX_LEVELS:
        raise check.say(f"nests JSON deeper than {MAX_LEVELS} levels")
    check.schema(schema, 0)
    check_cost(check.cost, param)
    return check.cost


def check_cost(cost: int, param: str) -> None:
    """Raises UnsupportedParameter where compiling would take too long."""
    if cost > MAX_COST:
        raise UnsupportedParameter(
            param, f"is too large a schema (cost {cost} of {MAX_COST}): lower its lengths and counts"
        )


def _levels(value: object) -> int:
    """How deep JSON nests, as far as it matters; found without recursion."""
    levels, row = 0, [value]
    while row and levels <= MAX_LEVELS:
        levels += 1
        inner = [list(each.values()) if isinstance(each, Mapping) else each for each in row]
        row = [part for each in inner if isinstance(each, list) for part in each]
    return levels


class _Check:
    """A walk through a schema that adds up its cost."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.cost = 0
        self._lengths: set[tuple[Any, Any]] = set()

    def schema(self, schema: object, depth: int) -> None:
        if schema is True:
            self.cost += ANYTHING_COST
            return
        if depth > MAX_DEPTH:
            raise self.say(f"nests schemas deeper than {MAX_DEPTH}")
        if not isinstance(schema, Mapping):
            raise self.say("must hold schemas, which are objects or true")
        self._check_pairs(schema)
        self.cost += SCHEMA_COST if schema.keys() & _SAYING else ANYTHING_COST
        for keyword, value in schema.items():
            self._keyword(keyword, value, depth)
        self._count_length(schema)

    def _check_pairs(self, schema: Mapping[str, Any]) -> None:
        if "properties" in schema and schema.keys() & {"minProperties", "maxProperties"}:
            raise self.say("can't count the properties of an object and name them, too")
        if "pattern" in schema and schema.keys() & {"minLength", "maxLength", "format"}:
            raise self.say("can't hold a string to a pattern and to something else")
        if "format" in schema and schema.keys() & {"minLength", "maxLength"}:
            raise self.say("can't hold a string to a format and to a length")

    def _count_length(self, schema: Mapping[str, Any]) -> None:
        """Strings of one length are compiled once, whatever it is."""
        length = (schema.get("minLength"), schema.get("maxLength"))
        if length != (None, None) and length not in self._lengths:
            self._lengths.add(length)
            self.cost += LENGTH_COST

    def _keyword(self, keyword: str, value: Any, depth: int) -> None:
        if keyword in _NOTES or keyword == "const":
            return
        if keyword in _MAPS:
            for part in _mapping(keyword, value, self.say).values():
                self.schema(part, depth + 1)
        elif keyword in _LISTS:
            if keyword == "allOf" and len(_list(keyword, value, self.say)) > 1:
                raise self.say("can't hold an answer to several schemas at once: give allOf one, or merge them")
            for part in _list(keyword, value, self.say):
                self.schema(part, depth + 1)
        elif keyword not in _ONE:
            _check_value(keyword, value, self.say)
            self.cost += _cost_of(keyword, value)
        elif value is not False:
            self.schema(value, depth + 1)


def _cost_of(keyword: str, value: Any) -> int:
    """What a checked keyword adds to the time to compile."""
    if keyword == "pattern":
        return PATTERN_COST + len(value) + _repetitions(value)
    if keyword in _COUNTS:
        return 0 if keyword.endswith("Length") else int(value)
    if keyword == "enum":
        return len(value)
    return FORMAT_COST if keyword == "format" else BOUND_COST if keyword in _NUMBERS else 0


def _repetitions(pattern: str) -> int:
    counts = [max(int(low), int(high or 0), 1) for low, high in _COUNTED.findall(pattern)]
    # Counted groups may nest, and multiply then.
    nested = math.prod(counts) ** 2 if "){" in pattern else 0
    return min(MAX_COST + 1, 2 * sum(counts) + nested)


def _check_value(keyword: str, value: Any, say: Say) -> None:
    if keyword == "type":
        named = value if isinstance(value, list) else [value]
        if not named or any(not isinstance(name, str) or name not in TYPES for name in named):
            raise say(f"names a type other than {', '.join(sorted(TYPES))}")
    elif keyword in ("enum", "required"):
        if not _list(keyword, value, say) and keyword == "enum":
            raise say("has an empty enum, which no answer fits")
    elif keyword in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COST:
            raise say(f"must have a {keyword} between 0 and {MAX_COST}")
    elif keyword in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_NUMBER:
            raise say(f"must have a number of at most {MAX_NUMBER} for {keyword}")
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
