"""`retally proxy`: the unmodified `openai` package against a local endpoint that pays with its own wallet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests import fakes_market
from tests.fakes_job import FakeJob
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, error, render
from tests.serve_app import market_app, serve

from retally import Client, PaymentTerms, SigningKey, Wallet, frames
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


class Unsteady(FakeMarket):
    """Serves and bills a job, then answers late, or with a failure."""

    fails = 0
    delay = 0.0

    def complete(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().complete(request)
        time.sleep(self.delay)
        if self.fails:
            self.fails -= 1
            return error(500, "internal_error")
        return answer


@pytest.fixture
def unsteady(tmp_path: Path) -> Iterator[tuple[Unsteady, str]]:
    market = Unsteady()
    with serve(market_app(market)) as router_url:
        client = Client(base_url=router_url, wallet=Wallet(KEY, DOMAIN, tmp_path), home=tmp_path, renderer=render)
        with serve(create_app(client.payment, router_url)) as url:
            yield market, url + "/v1"


class TestOneJobACall:
    def test_though_it_failed(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        market.fails = 3
        with openai.OpenAI(api_key="x", base_url=url) as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert len(market.jobs) == 1

    def test_though_the_caller_hangs_up_and_asks_again(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        market.delay = 1.2
        with openai.OpenAI(api_key="x", base_url=url, timeout=0.8) as client:
            answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert answer.choices[0].message.content == market.text
        assert len(market.jobs) == 1

    def test_though_its_key_comes_twice(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        with openai.OpenAI(api_key="x", base_url=url) as client:
            for key, jobs in (("a", 1), ("a", 1), ("b", 2)):
                client.chat.completions.create(model=MODEL, messages=QUESTION, extra_headers={"Idempotency-Key": key})
                assert len(market.jobs) == jobs
            with pytest.raises(openai.BadRequestError, match="another request"):
                client.chat.completions.create(
                    model=MODEL, messages=QUESTION, seed=5, extra_headers={"Idempotency-Key": "a"}
                )

    def test_of_a_stream_that_has_begun(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        keyed: Any = {"model": MODEL, "messages": QUESTION, "extra_headers": {"Idempotency-Key": "a"}, "stream": True}
        with openai.OpenAI(api_key="x", base_url=url) as client:
            list(client.chat.completions.create(**keyed))
            with pytest.raises(openai.ConflictError):
                client.chat.completions.create(**keyed)
        assert len(market.jobs) == 1

    def test_yet_two_calls_are_two(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        with openai.OpenAI(api_key="x", base_url=url) as client:
            for _ in range(2):
                client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert len(market.jobs) == 2

    def test_and_what_was_never_signed_may_be_asked_anew(self, unsteady: tuple[Unsteady, str]) -> None:
        market, url = unsteady
        keyed: Any = {"messages": QUESTION, "extra_headers": {"Idempotency-Key": "a"}}
        with openai.OpenAI(api_key="x", base_url=url) as client:
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="nobody/none", **keyed)
            client.chat.completions.create(model=MODEL, **keyed)
        assert len(market.jobs) == 1


class TestBrokenAnswers:
    def endless_frame(self, job: FakeJob) -> Iterator[bytes]:
        yield b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        yield b"data: " + b" " * 5000

    def test_a_stream_says_that_it_broke_off(self, proxy_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "MOST_BYTES", 4096)
        monkeypatch.setattr(fakes_market.FakeJob, "frames", lambda job: self.endless_frame(job))
        with openai.OpenAI(api_key="x", base_url=proxy_url + "/v1") as client:
            stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            assert next(stream).choices[0].delta.content == "a"
            with pytest.raises(openai.APIError):
                next(stream)

    @pytest.mark.parametrize("content", [b"<html>", b"", b"[]", b"[" * 100_000])
    def test_a_plain_one_is_in_the_envelope(self, market: FakeMarket, proxy_url: str, content: bytes) -> None:
        market.complete = lambda _: httpx2.Response(200, content=content)  # type: ignore[method-assign]
        answer = httpx2.post(proxy_url + "/v1/chat/completions", json={"model": MODEL, "messages": QUESTION})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_answer")
        assert answer.headers["x-should-retry"] == "false"

    def test_a_deep_body_is_refused(self, proxy_url: str) -> None:
        deep = b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        answer = httpx2.post(proxy_url + "/v1/chat/completions", content=deep)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


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
