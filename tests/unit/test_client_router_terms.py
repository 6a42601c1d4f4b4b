"""What a router fills in is bounded by the payer's terms: beyond them nothing is signed."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tests.fakes_job as job_module
import tests.fakes_market as market_module
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, error

from retally import Client, PaymentTerms, RetallyError, SigningKey, Wallet
from retally.model_ids import ModelIds
from retally.protocol.encoding import keccak, to_hex
from retally.protocol.offer import Offer

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")
CHEAP_MODEL = keccak(b"a cheap model")


class Filling(FakeMarket):
    """A router that fills in what it is told to, and keeps what was signed for it."""

    filled: dict[str, Any]
    offered: dict[str, Any]
    signed: list[dict[str, Any]]

    def __init__(self, filled: dict[str, Any], offered: dict[str, Any]) -> None:
        super().__init__()
        self.filled, self.offered, self.signed = filled, offered, []

    @property
    def offer(self) -> Offer:
        return replace(super().offer, **self.offered)

    def quote(self, request: httpx2.Request) -> httpx2.Response:
        answer = json.loads(super().quote(request).content)
        return httpx2.Response(200, json=answer | self.filled)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        header = request.headers.get("x-retally-authorization")
        if header is None:
            return super().handle(request)
        self.signed.append(json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4))))
        return error(400, "stop_here")


def new_client(market: FakeMarket, tmp_path: Path, **terms: Any) -> Client:
    return Client(
        base_url="http://router",
        wallet=Wallet(KEY, market_module.DOMAIN, tmp_path),
        home=tmp_path,
        transport=market.transport(),
        terms=PaymentTerms(backoff_seconds=0.001, **terms),
    )


def chat(client: Client, **body: Any) -> None:
    client.chat.completions.create(model=MODEL, messages=QUESTION, **body)


def embed(client: Client, **body: Any) -> None:
    client.embeddings.create(model=MODEL, input="hi", **body)


@pytest.mark.parametrize(
    ("filled", "offered", "ask", "body"),
    [
        pytest.param({}, {}, chat, {"extra_body": {"provider": {"max_price": {"completion": 5}}}}, id="dear"),
        pytest.param({}, {}, chat, {"extra_body": {"provider": {"max_price": {"completion": "5"}}}}, id="no price"),
        pytest.param({}, {"model_id": CHEAP_MODEL}, chat, {}, id="another model"),
        pytest.param({"dimensions": 1024}, {}, embed, {}, id="vectors that cost"),
        pytest.param({"dimensions": "x"}, {"price_out": 0}, embed, {}, id="no dimensions"),
        pytest.param({"now": "abc"}, {}, chat, {}, id="no time"),
        pytest.param({"now": [1]}, {}, chat, {}, id="a list for a time"),
        pytest.param({"now": 2**41}, {}, chat, {}, id="a time beyond its width"),
        pytest.param({"defaultMaxTokens": -5}, {}, chat, {}, id="less than no tokens"),
        pytest.param({"templateDate": "not a date"}, {}, chat, {}, id="no date"),
    ],
)
def test_signs_nothing(
    tmp_path: Path, filled: dict[str, Any], offered: dict[str, Any], ask: Any, body: dict[str, Any]
) -> None:
    market = Filling(filled, offered)
    client = new_client(market, tmp_path, models=ModelIds([(MODEL, job_module.MODEL_ID)]))
    with pytest.raises(RetallyError):
        ask(client, **body)
    assert not market.signed
    assert client.payment.guard.used == 0
    assert not client.payment.wallet.line(market.node_key.address).open  # type: ignore[union-attr]


@pytest.mark.parametrize("years", [-30, 30_000])
def test_signs_nothing_by_a_clock_that_is_far_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    # A real chain's id: a devnet's time is moved at will.
    monkeypatch.setattr(market_module, "DOMAIN", replace(DOMAIN, chain_id=8453))
    now = int(time.time()) + years * 365 * 86400
    market = Filling({"now": now}, {"valid_until": now + 900})
    with pytest.raises(RetallyError, match="this clock says") as refused:
        chat(new_client(market, tmp_path))
    assert refused.value.code == "clock_differs"
    assert not market.signed


def test_a_name_keeps_its_first_model(tmp_path: Path) -> None:
    market = Filling({}, {})
    client = new_client(market, tmp_path)
    with pytest.raises(Exception, match="stop_here"):
        chat(client)
    market.offered = {"model_id": CHEAP_MODEL}
    with pytest.raises(RetallyError) as refused:
        chat(client)
    assert refused.value.code == "other_model"
    assert len(market.signed) == 1


def test_a_model_named_by_its_id_is_that_model() -> None:
    with pytest.raises(RetallyError):
        ModelIds().check(to_hex(job_module.MODEL_ID), CHEAP_MODEL)
    ModelIds().check(to_hex(CHEAP_MODEL), CHEAP_MODEL)


@pytest.mark.parametrize(("router_s", "signed"), [(2**32 - 1, 512), (64, 64), (None, 512)])
def test_the_lesser_limit_of_tokens_is_signed(tmp_path: Path, router_s: int | None, signed: int) -> None:
    market = Filling({"defaultMaxTokens": router_s}, {})
    with pytest.raises(Exception, match="stop_here"):
        chat(new_client(market, tmp_path))
    assert market.signed[0]["request"]["maxOutput"] == signed


def test_a_deployment_says_what_a_name_stands_for(tmp_path: Path) -> None:
    class Deployment:
        domain = DOMAIN
        models = ({"name": MODEL, "modelId": to_hex(job_module.MODEL_ID)},)

    market = Filling({}, {"model_id": CHEAP_MODEL})
    client = Client(
        base_url="http://router",
        wallet=Wallet(KEY, DOMAIN, tmp_path),
        deployment=Deployment(),
        home=tmp_path,
        transport=market.transport(),
    )
    with pytest.raises(RetallyError) as refused:
        chat(client)
    assert refused.value.code == "other_model"
