"""How deep the interpreter may recurse."""

from __future__ import annotations

import sys

DEPTH = 1000


def bound_recursion() -> None:
    """Puts Python's own limit back, once all is imported; whoever reads JSON of strangers calls it at its start.

    Warning: a library under web3 raises the limit to 100,000 when it is imported. JSON of that depth overflows the C
    stack and ends the process; below Python's own limit its readers raise RecursionError instead.
    """
    sys.setrecursionlimit(min(sys.getrecursionlimit(), DEPTH))
