"""How deep the JSON of strangers may nest: nothing that reads or writes it by recursion shall be what finds out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import parse_object

MAX_LEVELS = 64


def check_levels(name: str, value: object) -> None:
    """Raises BadRequest where lists and objects nest too deep; looks at each value once, without recursion."""
    row, levels = [value], 0
    while row := [each for each in row if isinstance(each, list | dict)]:
        levels += 1
        if levels > MAX_LEVELS:
            raise BadRequest(f"{name} nests lists and objects deeper than {MAX_LEVELS} levels", param=name)
        row = [part for each in row for part in (each.values() if isinstance(each, dict) else each)]


def parse_shallow_object(name: str, value: object) -> Mapping[str, Any]:
    """A JSON object that does not nest too deep."""
    check_levels(name, value)
    return parse_object(name, value)
