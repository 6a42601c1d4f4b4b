"""What a client may wish of its node, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.pricing import Prices
from retally_router.wishes import ORDINARY, PRESETS, Pace, Wishes, read_wishes


def test_nothing_wished_is_the_default() -> None:
    assert read_wishes(None) == read_wishes({}) == Wishes()


def test_every_wish_is_read() -> None:
    wishes = read_wishes(
        {
            "order": ["0xA"],
            "only": ["0xA", "0xB"],
            "ignore": ["0xC"],
            "max_price": {"prompt": 5, "completion": 7},
            "sort": "latency",
            "allow_fallbacks": False,
            "require": ["parameters", "audited"],
            "require_parameters": True,
            "targets": {"ttft_ms": 250},
            "preset": "patient",
            "max_rtt_ms": 80.5,
            "audit": False,
        }
    )
    assert wishes == Wishes(
        order=("0xa",),
        only=("0xa", "0xb"),
        ignore=("0xc",),
        max_prices=Prices(5, 5, 7),
        sort="latency",
        pace=Pace(0.25, PRESETS["patient"].tpot_seconds, PRESETS["patient"].worth),
        max_rtt_seconds=0.0805,
        only_audited=True,
        allow_fallbacks=False,
        audit_consent=False,
    )


def test_presets_differ_in_the_expected_direction() -> None:
    patient, eager = PRESETS["patient"], PRESETS["eager"]
    assert patient.ttft_seconds > ORDINARY.ttft_seconds > eager.ttft_seconds
    assert patient.worth < ORDINARY.worth < eager.worth


@pytest.mark.parametrize(
    "provider",
    [
        [],
        "cheap",
        {"colour": "red"},
        {"order": "0xa"},
        {"only": [1]},
        {"ignore": ["0xa"] * 257},
        {"sort": "luck"},
        {"max_price": 3},
        {"max_price": {"prompt": -1}},
        {"max_price": {"images": 1}},
        {"allow_fallbacks": "no"},
        {"preset": "lazy"},
        {"preset": ["eager"]},
        {"targets": [1]},
        {"targets": {"ttft": 1}},
        {"targets": {"ttft_ms": 0}},
        {"targets": {"tpot_ms": True}},
        {"targets": {"tpot_ms": "40"}},
        {"targets": {"ttft_ms": 10**9}},
        {"targets": {"ttft_ms": float("nan")}},
        {"max_rtt_ms": -5},
        {"max_rtt_ms": float("inf")},
        {"require": "audited"},
        {"require": ["tools"]},
        {"require": [["audited"]]},
        {"require": ["audited"], "allow_unaudited": True},
        {"require_parameters": 1},
    ],
)
def test_a_bad_wish_is_a_clear_400(provider: Any) -> None:
    with pytest.raises((BadRequest, UnsupportedParameter)) as caught:
        read_wishes(provider)
    assert caught.value.status == 400
    assert "provider" in (caught.value.param or caught.value.message)
    assert caught.value.message
