"""The branches of the contracts, and where they lie in code that was compiled for counting them.

Without the optimizer each branching node of the syntax tree has one JUMPI that carries exactly its source range, in
each contract that holds it (three, where a modifier is pasted in three functions). What else branches, the checks that
the compiler adds, carries other ranges and is not counted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import solcx

from compile_contracts import CONTRACTS, ROOT, SETTINGS, TIMELOCK, CompileError, collect_sources, resolve_solc

JUMPI, JUMPDEST, PUSH1, PUSH32 = 0x57, 0x5B, 0x60, 0x7F
# What it means that a JUMPI jumps, and that it does not.
SIDES: Mapping[str, tuple[str, str]] = {
    "IfStatement": ("false", "true"),
    "Conditional": ("true", "false"),
    "ForStatement": ("ends", "goes on"),
    "WhileStatement": ("ends", "goes on"),
    "DoWhileStatement": ("goes on", "ends"),
    "FunctionCall": ("holds", "reverts"),
    "TryStatement": ("succeeds", "fails"),
    "&&": ("left decides", "right decides"),
    "||": ("left decides", "right decides"),
}
ENTERED = "entered"
# The peephole optimizer, otherwise always on, turns some jumps round and takes others out.
UNOPTIMISED = {"enabled": False, "details": {"peephole": False, "inliner": False, "jumpdestRemover": False}}
OUTPUTS = {
    "*": {
        "*": [
            "abi",
            "evm.bytecode.object",
            "evm.bytecode.sourceMap",
            "evm.deployedBytecode.object",
            "evm.deployedBytecode.sourceMap",
            "evm.deployedBytecode.immutableReferences",
        ],
        "": ["ast"],
    }
}
Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True, order=True)
class Branch:
    """One side of a branching node, or the entry of a function."""

    file: str
    line: int
    function: str
    text: str
    side: str


@dataclass(frozen=True, slots=True)
class Code:
    """The code of one contract, as deployed or to deploy; immutables are zero."""

    name: str
    is_creation: bool
    code: bytes
    immutables: tuple[tuple[int, int], ...]
    places: Mapping[int, Place]

    @property
    def key(self) -> str:
        """What traces call it."""
        return f"{self.name}{':creation' if self.is_creation else ''}"


class Node:
    """A branching node or a function of the syntax tree."""

    def __init__(self, kind: str, tree: Mapping[str, Any], function: str, file: str, source: bytes) -> None:
        self.kind, self.tree, self.function, self.file, self.source = kind, tree, function, file, source
        start, length, unit = map(int, tree["src"].split(":"))
        self.place: Place = (start, length, unit)

    @cached_property
    def sides(self) -> tuple[Branch, ...]:
        """Both sides, that of the jump first; of a function, its entry."""
        words = SIDES.get(self.kind, (ENTERED,))
        line = self.source[: self.place[0]].count(b"\n") + 1
        return tuple(Branch(self.file, line, self.function, self._text(), side) for side in words)

    def _text(self) -> str:
        if self.kind == "FunctionDefinition":
            return f"function {self.function}"
        arguments = self.tree.get("arguments")
        part = arguments[0] if arguments else self.tree.get("condition") or self.tree.get("externalCall") or self.tree
        start, length, _ = map(int, part["src"].split(":"))
        return " ".join(self.source[start : start + length].decode().split())


class CoverageMap:
    """Everything compiled without the optimizer."""

    def __init__(self) -> None:
        tests = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests" / "solidity").glob("*.sol"))]
        self.sources = collect_sources([*_contracts(), *tests, TIMELOCK])
        self._output = _compile(self.sources)
        self.nodes = list(self._nodes())
        self.codes = [code for code in self._codes() if code.code]

    def artifact(self, unit: str) -> dict[str, Any]:
        """ABI and codes of the contract that a source unit is named after."""
        found: dict[str, Any] = self._output["contracts"][unit][Path(unit).stem]
        return found

    def taken(self, steps: Mapping[str, Sequence[tuple[int, bool]]]) -> set[Branch]:
        """The branches behind the steps of traces: of each code, a JUMPDEST or whether a JUMPI jumped."""
        by_place = {node.place: node for node in self.nodes}
        found = set()
        for code in self.codes:
            for pc, jumped in steps.get(code.key, ()):
                node = by_place.get(code.places.get(pc, (0, 0, 0)))
                if node is None or (node.kind == "FunctionDefinition") != (code.code[pc] == JUMPDEST):
                    continue
                found.add(node.sides[0 if jumped or len(node.sides) == 1 else 1])
        return found

    def without_code(self) -> set[Branch]:
        """Branches that no code holds: nothing calls their function."""
        present = {place for code in self.codes for place in code.places.values()}
        return {side for node in self.nodes if node.place not in present for side in node.sides}

    def _nodes(self) -> Iterator[Node]:
        for unit, body in self._output["sources"].items():
            if unit.startswith("contracts/"):
                yield from _walk(body["ast"], "", unit, self.sources[unit].encode())

    def _codes(self) -> Iterator[Code]:
        for unit, contracts in self._output["contracts"].items():
            if unit.startswith("contracts/interfaces/"):
                continue
            for name, body in contracts.items():
                for kind in ("deployedBytecode", "bytecode"):
                    code = bytes.fromhex(body["evm"][kind]["object"])
                    zeroed = [place for each in _immutables(body["evm"][kind]) for place in each]
                    spans = tuple((span["start"], span["length"]) for span in zeroed)
                    places = dict(_places(code, body["evm"][kind]["sourceMap"]))
                    yield Code(name, kind == "bytecode", code, spans, places)


def write_codes(codes: Sequence[Code], path: Path) -> None:
    """Say for the recorder which code is whose."""
    rows = [{"key": c.key, "creation": c.is_creation, "code": c.code.hex(), "immutables": c.immutables} for c in codes]
    path.write_text(json.dumps(rows), encoding="utf-8")


def _contracts() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in sorted(CONTRACTS.rglob("*.sol"))]


def _compile(sources: Mapping[str, str]) -> dict[str, Any]:
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": {**SETTINGS, "optimizer": UNOPTIMISED, "outputSelection": OUTPUTS},
    }
    with tempfile.TemporaryDirectory() as folder:
        output: dict[str, Any] = solcx.compile_standard(request, solc_binary=resolve_solc(Path(folder)))
    if "contracts" not in output:
        raise CompileError(str(output.get("errors")))
    return output


def _walk(tree: Any, function: str, file: str, source: bytes) -> Iterator[Node]:
    if isinstance(tree, list):
        for part in tree:
            yield from _walk(part, function, file, source)
    if not isinstance(tree, dict):
        return
    kind = str(tree.get("nodeType"))
    if kind in ("FunctionDefinition", "ModifierDefinition"):
        function = tree["name"] or tree["kind"]
        # A constructor is pasted where the deployment starts and has no entry of its own.
        if tree.get("implemented") and tree["kind"] != "constructor":
            yield Node(kind, tree, function, file, source)
    elif kind == "BinaryOperation":
        if tree["operator"] in SIDES:
            yield Node(tree["operator"], tree, function, file, source)
    elif kind == "FunctionCall":
        if tree["expression"].get("name") in ("require", "assert"):
            yield Node(kind, tree, function, file, source)
    elif kind in SIDES:
        yield Node(kind, tree, function, file, source)
    for part in tree.values():
        yield from _walk(part, function, file, source)


def _immutables(body: Mapping[str, Any]) -> Iterator[list[dict[str, int]]]:
    yield from body.get("immutableReferences", {}).values()


def _places(code: bytes, source_map: str) -> Iterator[tuple[int, Place]]:
    """The source range of each JUMPI and JUMPDEST."""
    pc, current = 0, ["0", "0", "0"]
    for entry in source_map.split(";"):
        if pc >= len(code):
            return
        for index, part in enumerate(entry.split(":")[:3]):
            current[index] = part or current[index]
        operation = code[pc]
        if operation in (JUMPI, JUMPDEST):
            yield pc, (int(current[0]), int(current[1]), int(current[2]))
        pc += 1 + (operation - PUSH1 + 1 if PUSH1 <= operation <= PUSH32 else 0)
