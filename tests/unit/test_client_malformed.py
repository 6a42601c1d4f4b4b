"""Values that can't be read are errors of ours, are not paid, and leave no hold behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tests.fakes_market as market_module
from tests.fakes_job import FakeJob
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket, render

from retally import Client, Evidence, PaymentTerms, RetallyError, SigningKey, Wallet, result_of
from retally.asked import Asked
from retally.job_history import JobHistory
from retally.job_meter import JobMeter

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")
LIMIT = 100_000
IN_FRAMES: list[dict[str, Any]] = [
    *({"q": [value]} for value in (70_000, -1, "x", None)),
    {"q": "x"},
    {"ids": [-1]},
    {"ids": {"0": 1}},
    {"choice": "x"},
    {"choice": 7},
    {"choice": -1},
    {"outputFrom": None, "ids": [1]},
    {"outputFrom": 2**40},
    {"cost": "x"},
    {"promptTokens": "x"},
    {"promptTokens": -5},
    {"receipts": 5},
    {"receipts": [5]},
    {"receipts": [{}]},
    {"chunk": 5},
    {"receipt": {"jobId": 5}},
]
IN_BODIES: list[dict[str, Any]] = [
    *({"q": {"0": [value]}} for value in (70_000, -1, "x", None)),
    {"q": 5},
    {"ids": [1]},
    {"ids": {"x": [1]}},
    {"ids": {"7": [1]}},
    {"ids": {"0": [1] * 65}},
    {"ids": {"0": "x"}},
    {"cost": "x"},
    {"cost": [1]},
    {"promptTokens": -5},
    {"receipts": 5},
    {"receipts": [{}]},
]


def spoiled_by(changes: dict[str, Any]) -> type[FakeJob]:
    class Spoiled(FakeJob):
        def plain(self) -> dict[str, Any]:
            body = super().plain()
            return body | {"retally": body["retally"] | changes}

        def frames(self) -> Iterator[bytes]:
            for frame in super().frames():
                if frame.startswith(b"data: {"):
                    content = json.loads(frame[6:])
                    content["retally"] |= changes
                    yield b"data: " + json.dumps(content).encode() + b"\n\n"
                else:
                    yield frame

    return Spoiled


def new_client(market: FakeMarket, tmp_path: Path, *, keyed: bool) -> Client:
    options: dict[str, Any] = {"api_key": API_KEY} if keyed else {"wallet": Wallet(KEY, DOMAIN, tmp_path)}
    return Client(
        base_url="http://router",
        home=tmp_path,
        transport=market.transport(),
        renderer=render,
        terms=PaymentTerms(backoff_seconds=0.001),
        spending_limit=LIMIT,
        history=True,
        **options,
    )


def spoiled_market(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], tmp_path: Path, *, keyed: bool
) -> tuple[FakeMarket, Client]:
    monkeypatch.setattr(market_module, "FakeJob", spoiled_by(changes))
    market = FakeMarket()
    return market, new_client(market, tmp_path, keyed=keyed)


@pytest.mark.parametrize("keyed", [False, True], ids=["wallet", "key"])
@pytest.mark.parametrize("changes", IN_BODIES, ids=str)
def test_a_plain_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], keyed: bool) -> None:
    market, client = spoiled_market(monkeypatch, changes, tmp_path, keyed=keyed)
    result = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION))
    assert not result.checks.passed
    assert_refused(client, result, tmp_path)
    assert keyed or client.payment.wallet.line(market.node_key.address).closed == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("keyed", [False, True], ids=["wallet", "key"])
@pytest.mark.parametrize("changes", IN_FRAMES, ids=str)
def test_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], keyed: bool) -> None:
    market, client = spoiled_market(monkeypatch, changes, tmp_path, keyed=keyed)
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    promised = list(market.vouchers)
    assert list(stream), "the caller keeps what arrives"
    # What lists further receipts beside a whole answer spoils none of it.
    assert result_of(stream).checks.passed == ("receipts" in changes)
    assert_refused(client, result_of(stream), tmp_path)
    assert keyed or market.vouchers == promised


def assert_refused(client: Client, result: Any, home: Path) -> None:
    assert isinstance(result.payment_error, RetallyError)
    assert result.finished
    assert 0 < client.payment.guard.used < LIMIT
    assert len(JobHistory(home / "jobs.sqlite").list()) == 1


def test_an_answer_that_is_no_json_is_booked(tmp_path: Path) -> None:
    meter = JobMeter(Evidence())
    with pytest.raises(RetallyError):
        list(meter.take_body(b"<html>"))
    with pytest.raises(RetallyError):
        list(meter.take_body(b"[]"))


def test_keeps_nothing_that_was_not_asked() -> None:
    asked = Asked(choices=1, seed=None, audit_consent=True, model_ids=frozenset(), max_prices=None)
    meter = JobMeter(Evidence(asked=asked))
    for choice in range(1, 200):
        with pytest.raises(RetallyError):
            list(meter.take_frame({"retally": {"choice": choice, "outputFrom": 0, "ids": [1] * 1000, "q": [0] * 1000}}))
    assert meter.total_output_tokens == 0
