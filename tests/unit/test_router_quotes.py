"""A quote says itself what it is: every replica takes it up, and nobody can make or change one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retally.errors import BadRequest
from retally.protocol.eip712 import SigningKey, keccak
from retally_router.quotes import QUOTE_SECONDS, Quotes

KEY, NODE = SigningKey(keccak(b"router")), SigningKey(keccak(b"node")).address


class Hands:
    """A clock that is moved by hand."""

    seconds = 1_800_000_000.5

    def __call__(self) -> float:
        return self.seconds


def refused(quotes: Quotes, quote_id: str) -> None:
    with pytest.raises(BadRequest) as caught:
        quotes.node_of(quote_id)
    assert (caught.value.code, caught.value.param) == ("quote_expired", "quoteId")
    assert "POST /retally/v1/quotes" in str(caught.value.hint)


def test_another_replica_takes_it_up() -> None:
    assert Quotes(KEY).node_of(Quotes(KEY).give(NODE)) == NODE


def test_another_router_does_not() -> None:
    refused(Quotes(SigningKey(keccak(b"another"))), Quotes(KEY).give(NODE))


def test_it_ends() -> None:
    clock = Hands()
    quotes = Quotes(KEY, clock)
    quote_id = quotes.give(NODE)
    clock.seconds += QUOTE_SECONDS - 1
    assert quotes.node_of(quote_id) == NODE
    clock.seconds += 2
    refused(quotes, quote_id)


def test_no_bit_of_it_can_be_changed() -> None:
    given_id = bytes.fromhex(Quotes(KEY).give(NODE))
    for bit in range(8 * len(given_id)):
        raw = bytearray(given_id)
        raw[bit // 8] ^= 1 << bit % 8
        refused(Quotes(KEY), raw.hex())


@given(st.one_of(st.text(), st.binary(max_size=60).map(bytes.hex)))
def test_what_was_never_given(quote_id: str) -> None:
    refused(Quotes(KEY), quote_id)
