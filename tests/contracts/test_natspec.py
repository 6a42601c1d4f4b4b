"""Every entry point says what it does, once: in its interface, or where it stands if no interface has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import compile_contracts

SOURCES = sorted(compile_contracts.CONTRACTS.rglob("*.sol"))
HEAD = re.compile(r"((?:^ *///[^\n]*\n)*)^    function (\w+)\(([^{;]*)[{;]", re.MULTILINE)
PUBLIC = re.compile(
    r"((?:^ *///[^\n]*\n)*)^    [\w()=> ]+ public (?:constant )?(?:override )?(\w+)(?: = [^;]*)?;", re.MULTILINE
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_entry_point_is_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    silent = [
        name for comment, name, rest in HEAD.findall(text) if re.search(r"\b(external|public)\b", rest) and not comment
    ]
    silent += [name for comment, name in PUBLIC.findall(text) if not comment]
    assert silent == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "interfaces"], ids=lambda p: p.name)
def test_interfaces_say_it_themselves(path: Path) -> None:
    found = HEAD.findall(path.read_text(encoding="utf-8"))
    assert [name for comment, name, _ in found if not re.search(r"@(notice|return)", comment)] == []
