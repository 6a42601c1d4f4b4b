"""Small rooms in a small house: files of at most 300 lines, Python functions of 40, Solidity functions of 70, and
nothing at the top that does not belong there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 300
PYTHON_LINES = 40
SOLIDITY_LINES = 70
CODE_FOLDERS = ("sdk", "node", "router", "verifier", "scripts", "contracts", "tests")
TOP_FOLDERS = {*CODE_FOLDERS, "deployments", "docs"}
TOP_FILES = {"ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "PROTOCOL.md", "README.md", "pyproject.toml"}
SOLIDITY_FUNCTION = re.compile(r"^    (?:function (\w+)|constructor|receive|fallback)\b")


def main() -> int:
    """Print what is too long or out of place; fail if anything is."""
    findings = [finding for path in code_files() for finding in check_file(path)] + list(strangers())
    print("\n".join(findings) or "sizes: all within bounds")
    return 1 if findings else 0


def code_files() -> Iterator[Path]:
    """The hand-written Python and Solidity files."""
    for folder in CODE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sol") and "node_modules" not in path.parts:
                yield path


def strangers() -> Iterator[str]:
    """What git keeps at the top beside the fixed folders and files; nothing where git keeps nothing."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in sorted({path.split("/")[0] for path in listed.split("\0") if path}):
        if not name.startswith(".") and name not in TOP_FOLDERS | TOP_FILES:
            yield f"{name}: does not belong at the top level"


def check_file(path: Path) -> Iterator[str]:
    """Compare one file and its functions with the bounds; tests may tell long stories in one function."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{name}: {lines} lines, at most {FILE_LINES}"
    if path.suffix == ".sol":
        yield from check_solidity(str(name), text)
    elif name.parts[0] != "tests":
        yield from check_python(str(name), text)


def check_python(name: str, text: str) -> Iterator[str]:
    """Measure functions from their `def` to their last line, without decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > PYTHON_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {PYTHON_LINES}"


def check_solidity(name: str, text: str) -> Iterator[str]:
    """Measure functions from their header to the closing brace at their own indentation."""
    start, title = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = SOLIDITY_FUNCTION.match(line)
        if match:
            start, title = number, match.group(1) or "constructor"
        if title and line.startswith("    }"):
            if number - start + 1 > SOLIDITY_LINES:
                yield f"{name}:{start}: {title} has {number - start + 1} lines, at most {SOLIDITY_LINES}"
            title = ""


if __name__ == "__main__":
    sys.exit(main())
