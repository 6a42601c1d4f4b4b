"""Amounts as people write them: decimals of the asset; everywhere else, and in JSON, integers of its smallest unit."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from retally.errors import BadRequest

DECIMALS = 6
SYMBOL = "rUSD"


def parse_amount(text: str) -> int:
    """`12.5` or `12.5 rUSD` as an integer of the smallest unit."""
    cleaned = text.strip().removesuffix(SYMBOL).strip().replace("_", "")
    try:
        value = Decimal(cleaned) * 10**DECIMALS
    except InvalidOperation as error:
        raise BadRequest(f"{text!r} is no amount", param="amount", hint=f"write it like 12.5 (in {SYMBOL})") from error
    if not value.is_finite() or value != value.to_integral_value() or value <= 0 or value >= 1 << 96:
        raise BadRequest(f"{text!r} is no amount", param="amount", hint=f"positive, at most {DECIMALS} decimals")
    return int(value)


def show_amount(amount: int) -> str:
    """An amount for people."""
    sign, rest = ("-" if amount < 0 else ""), abs(amount)
    whole, part = divmod(rest, 10**DECIMALS)
    decimals = f"{part:0{DECIMALS}d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole:,}.{decimals} {SYMBOL}"
