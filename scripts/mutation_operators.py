"""The ways in which a mutant differs from the contracts, and the fixed lot that chooses among them.

Written before the tests that have to find the mutants: what is here must not follow what they miss.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 20261121
# The code that moves money or judges. Interfaces, types and what only reads files or hashes strings is left out.
TARGETS = (
    "contracts/Escrow.sol",
    "contracts/Staking.sol",
    "contracts/Court.sol",
    "contracts/Audits.sol",
    "contracts/Silence.sol",
    "contracts/JurorPools.sol",
    "contracts/base/*.sol",
    "contracts/libraries/*.sol",
)


@dataclass(frozen=True, slots=True)
class Operator:
    """One way to break a line: what it looks for, and what it puts there instead."""

    name: str
    pattern: re.Pattern[str]
    replacement: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken line."""

    path: str
    line: int
    column: int
    operator: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """What a later run knows it by: the text, not its place, which moves."""
        return f"{self.path}: {self.operator} at {self.column}: {self.before.strip()}"


def _operator(name: str, pattern: str, replacement: str) -> Operator:
    return Operator(name, re.compile(pattern), replacement)


OPERATORS: Sequence[Operator] = (
    _operator("a condition is not required", r"\brequire\((?=\S)", "require(true || "),
    _operator("< for <=", r" <= ", " < "),
    _operator("<= for <", r" < ", " <= "),
    _operator("> for >=", r" >= ", " > "),
    _operator(">= for >", r" > ", " >= "),
    _operator("!= for ==", r" == ", " != "),
    _operator("== for !=", r" != ", " == "),
    _operator("- for +", r" \+ ", " - "),
    _operator("+ for -", r" - ", " + "),
    _operator("/ for *", r" \* ", " / "),
    _operator("* for /", r" / ", " * "),
    _operator("-= for +=", r" \+= ", " -= "),
    _operator("+= for -=", r" -= ", " += "),
    _operator("|| for &&", r" && ", " || "),
    _operator("&& for ||", r" \|\| ", " && "),
    _operator("max for min", r"\bMath\.min\(", "Math.max("),
    _operator("rounded down", r"Math\.Rounding\.Ceil", "Math.Rounding.Floor"),
    _operator("1 for 0", r"(?<=[ (=])0(?=[;,) ])", "1"),
    _operator("false for true", r"\btrue\b", "false"),
    _operator("true for false", r"\bfalse\b", "true"),
    _operator("no modifier", r" (onlySlasher|whenRunning|nonReentrant|onlyOwner)(?= |$)", ""),
    _operator("a write is left out", r"^( +)(?:[\w.\[\]]+ [-+]?= |_\w+\(|[\w.\[\]]+\.\w+\()[^{]*;$", r"\1{}"),
)


def mutants(root: Path) -> list[Mutant]:
    """Every mutant of the targets, in the order of the lot: each head of the list is a sample of all."""
    paths = sorted({path for target in TARGETS for path in root.glob(target)})
    found = [mutant for path in paths for mutant in _mutants_of(root, path)]
    random.Random(SEED).shuffle(found)
    return found


def _mutants_of(root: Path, path: Path) -> Iterator[Mutant]:
    name = path.relative_to(root).as_posix()
    body = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        body = body or re.match(r"(abstract )?(contract|library) ", line) is not None
        code = line.split("//")[0].rstrip()
        if not body or not code.strip() or code.lstrip().startswith(("*", "/*", "event ", "error ", "emit ", "using ")):
            continue
        for operator in OPERATORS:
            for match in operator.pattern.finditer(code):
                after = code[: match.start()] + match.expand(operator.replacement) + code[match.end() :]
                yield Mutant(name, number, match.start(), operator.name, code, after)
