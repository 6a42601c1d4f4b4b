"""Answer one SMT-LIB query with Bitwuzla, which has no program of its own on PyPI; halmos calls it.

Its reasoning about products and quotients of 256 bits takes seconds where z3 and Yices take longer than five minutes.
"""

from __future__ import annotations

import sys

from bitwuzla import Option, Options, Parser, TermManager  # type: ignore[import-not-found]  # only where halmos runs

if __name__ == "__main__":
    options = Options()
    options.set(Option.PRODUCE_MODELS, True)
    Parser(TermManager(), options).parse(sys.argv[1])
