"""`retally proxy`: the unmodified `openai` package against a local endpoint that pays with its own wallet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, render
from tests.serve_app import market_app, serve

from retally import Client, PaymentTerms, SigningKey, Wallet
from retally.chain.deployment import Deployment
from retally.proxy import create_app

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x0b")


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def proxy_url(market: FakeMarket, tmp_path: Path) -> Iterator[str]:
    with serve(market_app(market)) as router_url:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        terms = PaymentTerms(backoff_seconds=0.001)
        client = Client(
            base_url=router_url, wallet=wallet, home=tmp_path, renderer=render, terms=terms, spending_limit=100_000
        )
        with serve(create_app(client.payment, router_url)) as url:
            yield url


class TestOpenAiClient:
    def test_gets_a_plain_answer(self, market: FakeMarket, proxy_url: str) -> None:
        with openai.OpenAI(api_key="anything", base_url=proxy_url + "/v1") as client:
            answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION)
        assert answer.parse().choices[0].message.content == market.text
        assert answer.headers["x-retally-checks"] == "passed"
        assert not any(path == "authorization" for _, path in market.seen)

    def test_gets_a_stream_that_is_paid(self, market: FakeMarket, proxy_url: str) -> None:
        with openai.OpenAI(api_key="anything", base_url=proxy_url + "/v1") as client:
            stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == market.text
        assert market.unpaid == 0
        [line] = market.lines.values()
        assert line.best >= line.cum_to > 0

    def test_lists_models(self, proxy_url: str) -> None:
        with openai.OpenAI(api_key="anything", base_url=proxy_url + "/v1") as client:
            assert [model.id for model in client.models.list()] == [MODEL]

    def test_gets_the_router_s_refusals(self, proxy_url: str) -> None:
        with openai.OpenAI(api_key="x", base_url=proxy_url + "/v1") as client, pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nobody/none", messages=QUESTION)

    def test_is_refused_beyond_the_limit(self, proxy_url: str) -> None:
        with (
            openai.OpenAI(api_key="x", base_url=proxy_url + "/v1") as client,
            pytest.raises(openai.APIStatusError) as refused,
        ):
            client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1_000_000)
        assert refused.value.status_code == 402
        assert refused.value.code == "spending_limit_exceeded"


class TestCommand:
    def test_serves_until_ctrl_c(self, market: FakeMarket, tmp_path: Path) -> None:
        deployment = tmp_path / "deployment.json"
        deployment.write_text(json.dumps(Deployment(31337, 0, {"Escrow": DOMAIN.escrow}).to_json()))
        with serve(market_app(market)) as router_url:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("RETALLY_")},
                "RETALLY_HOME": str(tmp_path),
                "RETALLY_ROUTER_URL": router_url,
                "RETALLY_DEPLOYMENT": str(deployment),
                "RETALLY_KEY": KEY.secret.hex(),
            }
            command = [sys.executable, "-m", "retally", "proxy", "--port", "0", "--json"]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                started = json.loads(process.stdout.readline())
                with openai.OpenAI(api_key="x", base_url=started["baseUrl"]) as client:
                    answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
        assert answer.choices[0].message.content == market.text
        assert started["payer"] == KEY.address


class TestGuards:
    @pytest.mark.parametrize(
        ("method", "path", "headers", "content", "status", "code"),
        [
            ("POST", "/v1/chat/completions", {}, b"{", 400, "invalid_json"),
            ("POST", "/v1/chat/completions", {}, b"[]", 400, "invalid_json"),
            ("POST", "/v1/chat/completions", {"origin": "https://evil.example"}, b"{}", 401, "foreign_origin"),
            ("POST", "/v1/chat/completions", {"host": "evil.example"}, b"{}", 401, "not_local"),
            ("GET", "/v1/chat/completions", {}, b"", 405, "method_not_allowed"),
            ("GET", "/nowhere", {}, b"", 404, "not_found"),
        ],
    )
    def test_answers_with_the_envelope(
        self,
        proxy_url: str,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes,
        status: int,
        code: str,
    ) -> None:
        answer = httpx2.request(method, proxy_url + path, headers=headers, content=content)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code

    def test_a_dead_router_is_503(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        terms = PaymentTerms(backoff_seconds=0.001, retries=1)
        client = Client(base_url="http://127.0.0.1:9", wallet=wallet, home=tmp_path, terms=terms)
        with serve(create_app(client.payment, "http://127.0.0.1:9")) as url:
            answer = httpx2.post(url + "/v1/chat/completions", json={"model": MODEL, "messages": QUESTION})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "router_unreachable"
