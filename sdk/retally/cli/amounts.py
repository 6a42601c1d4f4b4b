"""Amounts as people write them: decimals of the asset; everywhere else, and in JSON, integers of its smallest unit."""

from __future__ import annotations

import re

from retally.errors import BadRequest

DECIMALS = 6
SYMBOL = "rUSD"
#: More than any amount has; Python refuses to read numbers of thousands.
MOST_DIGITS = 40


def parse_amount(text: str) -> int:
    """`12.5` or `12.5 rUSD` as an integer of the smallest unit."""
    cleaned = text.strip().removesuffix(SYMBOL).strip().replace("_", "")
    match = re.fullmatch(rf"([0-9]{{1,{MOST_DIGITS}}})(?:\.([0-9]{{1,{DECIMALS}}}))?", cleaned)
    # Integers throughout: a decimal type would round what exceeds its precision.
    amount = 0 if match is None else int(match[1] + (match[2] or "").ljust(DECIMALS, "0"))
    if not 0 < amount < 1 << 96:
        hint = f"write it like 12.5 (in {SYMBOL}): above zero, with at most {DECIMALS} decimals"
        raise BadRequest(f"{text[:60]!r} is no amount", param="amount", hint=hint)
    return amount


def show_amount(amount: int) -> str:
    """An amount for people."""
    sign, rest = ("-" if amount < 0 else ""), abs(amount)
    whole, part = divmod(rest, 10**DECIMALS)
    decimals = f"{part:0{DECIMALS}d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole:,}.{decimals} {SYMBOL}"
