"""Fees: integers, once per receipt, rounded down (R-19)."""

from __future__ import annotations

from dataclasses import dataclass

from retally.errors import BadRequest, PriceAboveMax

PER = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Amounts per million tokens: fresh input, cached input, output."""

    price_in: int
    price_cached: int
    price_out: int


def billed_input(*, prompt_tokens: int, cached_tokens: int, choice: int, output_from: int) -> tuple[int, int]:
    """How many input tokens a segment bills fresh and how many as cached."""
    if output_from > 0:
        # Deliberate: a continuation never pays fresh input again, whatever its node had to prefill.
        return 0, prompt_tokens + output_from
    if choice > 0:
        return 0, 0
    if cached_tokens > prompt_tokens:
        raise BadRequest(f"{cached_tokens} cached of {prompt_tokens} prompt tokens", param="cachedTokens")
    return prompt_tokens - cached_tokens, cached_tokens


def fee_round_down(
    prices: Prices, *, prompt_tokens: int, cached_tokens: int, output_tokens: int, choice: int, output_from: int
) -> int:
    """The fee of one receipt; nothing without output."""
    fresh, cached = billed_input(
        prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, choice=choice, output_from=output_from
    )
    if output_tokens == 0:
        return 0
    total = fresh * prices.price_in + cached * prices.price_cached + output_tokens * prices.price_out
    return total // PER


def input_fee_round_down(prices: Prices, *, prompt_tokens: int, choice: int = 0, output_from: int = 0) -> int:
    """The input part that is prepaid before prefill, nothing taken as cached that is not sure to be."""
    fresh, cached = billed_input(prompt_tokens=prompt_tokens, cached_tokens=0, choice=choice, output_from=output_from)
    return (fresh * prices.price_in + cached * prices.price_cached) // PER


def max_fee(prices: Prices, *, prompt_tokens: int, max_output: int, n: int = 1, continuations: int = 0) -> int:
    """The most that a job can cost over all its choices, with so many continuations at worst."""
    fresh = prompt_tokens * max(prices.price_in, prices.price_cached)
    again = continuations * (prompt_tokens + max_output) * prices.price_cached
    return (fresh + again + n * max_output * prices.price_out) // PER


def check_prices(prices: Prices, maximum: Prices) -> None:
    """None of the prices may exceed its maximum."""
    pairs = (
        ("priceIn", prices.price_in, maximum.price_in),
        ("priceCached", prices.price_cached, maximum.price_cached),
        ("priceOut", prices.price_out, maximum.price_out),
    )
    for field, price, limit in pairs:
        if price > limit:
            raise PriceAboveMax(field, price, limit)
