"""`retally.Client` and `AsyncClient` with an API key: the router pays, the client counts and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket, render

from retally import AsyncClient, Client, RetallyError, SigningKey, SpendingLimitExceeded, Wallet, result_of
from retally.job_history import JobHistory

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]


class FakeDeployment:
    """A deployment, as far as signatures are concerned."""

    domain = DOMAIN


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


def new_client(market: FakeMarket, tmp_path: Path, **options: Any) -> Client:
    return Client(
        API_KEY, "http://router", deployment=FakeDeployment(), home=tmp_path, transport=market.transport(), **options
    )


class TestKeyed:
    def test_checks_everything_with_the_router_s_proof(self, market: FakeMarket, tmp_path: Path) -> None:
        client = new_client(market, tmp_path, renderer=render)
        result = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION))
        assert result.checks.passed
        assert result.checks.complete

    def test_checks_a_stream(self, market: FakeMarket, tmp_path: Path) -> None:
        client = new_client(market, tmp_path, renderer=render)
        stream = client.completions.create(model=MODEL, prompt="x", stream=True, n=2)
        list(stream)
        assert result_of(stream).checks.complete
        assert result_of(stream).checks.passed

    def test_says_what_it_can_t_check(self, market: FakeMarket, tmp_path: Path) -> None:
        client = Client(API_KEY, "http://router", home=tmp_path, transport=market.transport())
        checks = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).checks
        assert checks["prompt_root"] is None
        assert checks["node_signature"] is None
        assert checks["output_root"] is True
        assert checks.passed
        assert not checks.complete

    def test_finds_an_overbilled_answer(self, market: FakeMarket, tmp_path: Path) -> None:
        market.overbill = 3
        result = result_of(new_client(market, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION))
        assert [check.name for check in result.checks.failures] == ["price"]

    def test_a_bad_key_is_openai_s_error(self, market: FakeMarket, tmp_path: Path) -> None:
        client = Client("rt-other", "http://router", home=tmp_path, transport=market.transport())
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=MODEL, messages=QUESTION)

    def test_other_endpoints_pass_by(self, market: FakeMarket, tmp_path: Path) -> None:
        assert [model.id for model in new_client(market, tmp_path).models.list()] == [MODEL]

    def test_a_limit_that_is_reached_stops_the_next_request(self, market: FakeMarket, tmp_path: Path) -> None:
        client = new_client(market, tmp_path, spending_limit=5)
        client.chat.completions.create(model=MODEL, messages=QUESTION)
        with pytest.raises(SpendingLimitExceeded):
            client.chat.completions.create(model=MODEL, messages=QUESTION)

    def test_keeps_a_history(self, market: FakeMarket, tmp_path: Path) -> None:
        client = new_client(market, tmp_path, history=True)
        result = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION))
        history = JobHistory(tmp_path / "jobs.sqlite")
        assert [job["jobId"] for job in history.list()] == [result.job_id]
        assert history.get(str(result.job_id)[:12])["cost"] == str(result.cost)

    def test_needs_a_key_and_a_router(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RETALLY_API_KEY", raising=False)
        with pytest.raises(RetallyError, match="API key"):
            Client(base_url="http://router", home=tmp_path)
        with pytest.raises(RetallyError, match="router"):
            Client(API_KEY, home=tmp_path)


class TestAsync:
    async def test_checks_a_plain_answer(self, market: FakeMarket, tmp_path: Path) -> None:
        async with AsyncClient(API_KEY, "http://router", home=tmp_path, transport=market.transport()) as client:
            answer = await client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert result_of(answer).checks.passed

    async def test_pays_a_stream_with_a_wallet(self, market: FakeMarket, tmp_path: Path) -> None:
        wallet = Wallet(SigningKey(bytes(31) + b"\x09"), DOMAIN, tmp_path)
        async with AsyncClient(
            base_url="http://router", wallet=wallet, home=tmp_path, transport=market.transport(), renderer=render
        ) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == market.text
        assert result_of(stream).checks.complete
        assert result_of(stream).checks.passed
        assert market.unpaid == 0
        assert not list(wallet.stale())
