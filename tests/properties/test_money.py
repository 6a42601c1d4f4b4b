"""Money: fees round down and audit points tile the money line."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from retally.protocol.audit_points import drawn_points
from retally.protocol.case import Range, pack_ranges, unpack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.pricing import Prices, fee_round_down, input_fee_round_down, max_fee

PAYER, NODE = SigningKey(keccak(b"payer")).address, SigningKey(keccak(b"node")).address
prices_of = st.builds(Prices, *[st.integers(0, (1 << 64) - 1)] * 3)
counts = st.integers(0, (1 << 32) - 1)


@given(prices_of, counts, counts, st.integers(0, 3), st.integers(0, 1000))
def test_fees_never_favour_the_node(prices: Prices, prompt: int, output: int, choice: int, start: int) -> None:
    fee = fee_round_down(
        prices, prompt_tokens=prompt, cached_tokens=0, output_tokens=output, choice=choice, output_from=start
    )
    bill = output * prices.price_out
    if start:
        bill += (prompt + start) * prices.price_cached
    elif choice == 0:
        bill += prompt * prices.price_in
    assert fee == (0 if output == 0 else bill // 10**6)
    assert fee * 10**6 <= bill


@given(prices_of, st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 8))
def test_no_job_costs_more_than_its_maximum(prices: Prices, prompt: int, output: int, n: int) -> None:
    fees = [
        fee_round_down(
            prices, prompt_tokens=prompt, cached_tokens=0, output_tokens=output, choice=choice, output_from=0
        )
        for choice in range(n)
    ]
    assert sum(fees) <= max_fee(prices, prompt_tokens=prompt, max_output=output, n=n)
    assert input_fee_round_down(prices, prompt_tokens=prompt) <= fees[0]


@given(prices_of, st.integers(0, 10**6), st.data())
def test_cached_tokens_lower_a_fee_when_they_are_cheaper(prices: Prices, prompt: int, data: st.DataObject) -> None:
    cached = data.draw(st.integers(0, prompt))
    args = {"prompt_tokens": prompt, "output_tokens": 1, "choice": 0, "output_from": 0}
    plain = fee_round_down(prices, cached_tokens=0, **args)
    if prices.price_cached <= prices.price_in:
        assert fee_round_down(prices, cached_tokens=cached, **args) <= plain


@given(st.binary(min_size=32, max_size=32), st.integers(1, 500), st.lists(st.integers(0, 3000), min_size=2, max_size=6))
def test_ranges_that_touch_draw_each_point_once(seed: bytes, step: int, cuts: list[int]) -> None:
    cuts = sorted(set(cuts))
    whole = [Range(PAYER, PAYER, 0, cuts[0], cuts[-1])]
    parts = [Range(PAYER, PAYER, 0, a, b) for a, b in pairwise(cuts)]
    drawn = [point.point for point in drawn_points(seed, whole, NODE, step)]
    assert drawn == [point.point for point in drawn_points(seed, parts, NODE, step)]
    assert len(set(drawn)) == len(drawn)
    # One point in each whole step, at most one more at each edge.
    assert abs(len(drawn) - (cuts[-1] - cuts[0]) / step) <= 2
    assert unpack_ranges(pack_ranges(parts)) == tuple(parts)
