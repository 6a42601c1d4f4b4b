"""A spending limit with an API key holds where the router says nothing, or nobody reads to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import tests.fakes_market as market_module
from tests.fakes_job import FakeJob
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket

from retally import AsyncClient, BadRequest, Client, SpendingLimitExceeded, result_of

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]


class FakeDeployment:
    """A deployment, as far as signatures are concerned."""

    domain = DOMAIN


class Silent(FakeJob):
    """Says nothing of what it cost."""

    def plain(self) -> dict[str, Any]:
        body = super().plain()
        del body["retally"]
        return body


class Understated(FakeJob):
    """States more than its receipts bill."""

    def plain(self) -> dict[str, Any]:
        body = super().plain()
        body["retally"]["cost"] = "5000"
        return body


class Proofless(FakeMarket):
    """A router without a proof, that may state a cost all the same."""

    stated: str | None = None

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().handle(request)
        answer.headers.pop("x-retally-proof", None)
        if self.stated is not None:
            answer.headers["x-retally-cost"] = self.stated
        return answer


def new_client(market: FakeMarket, tmp_path: Path, **options: Any) -> Client:
    return Client(
        API_KEY, "http://router", deployment=FakeDeployment(), home=tmp_path, transport=market.transport(), **options
    )


def ask_often(client: Client, market: FakeMarket, times: int = 30) -> int:
    for number in range(times):
        try:
            client.chat.completions.create(model=MODEL, messages=QUESTION)
        except SpendingLimitExceeded:
            return number
    return times


@pytest.mark.parametrize("market", [FakeMarket(), Proofless()], ids=["with a proof", "without"])
@pytest.mark.parametrize("limit", [{"spending_limit": 100}, {"daily_limit": 100}], ids=["client", "day"])
def test_answers_without_receipts_use_the_limit_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, market: FakeMarket, limit: dict[str, int]
) -> None:
    monkeypatch.setattr(market_module, "FakeJob", Silent)
    assert ask_often(new_client(market, tmp_path, **limit), market) == 1


def test_the_most_that_may_have_been_signed_is_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_module, "FakeJob", Silent)
    client = new_client(FakeMarket(), tmp_path, spending_limit=10_000)
    request = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).evidence.request
    assert request is not None
    assert client.payment.guard.used == request.max_fee


def test_a_cost_in_the_header_is_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_module, "FakeJob", Silent)
    market = Proofless()
    market.stated = "12345"
    client = new_client(market, tmp_path)
    client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert client.payment.guard.used == 12345


def test_a_stated_cost_above_the_receipts_is_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_module, "FakeJob", Understated)
    client = new_client(FakeMarket(), tmp_path)
    client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert client.payment.guard.used == 5000


def test_an_honest_answer_books_its_receipts(tmp_path: Path) -> None:
    client = new_client(FakeMarket(), tmp_path)
    result = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION))
    assert client.payment.guard.used == result.cost


def test_a_stream_that_is_left_early_is_booked(tmp_path: Path) -> None:
    market = FakeMarket(text="x" * 60)
    client = new_client(market, tmp_path)
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    for _ in range(14):
        next(iter(stream))
    stream.close()
    request = result_of(stream).evidence.request
    assert request is not None
    made = sum(line.cum_to for line in market.lines.values()) + 56 * market.price_out // 1_000_000
    assert made <= client.payment.guard.used <= request.max_fee


def test_responses_are_refused_under_a_limit(tmp_path: Path) -> None:
    market = FakeMarket()
    client = new_client(market, tmp_path, spending_limit=1)
    with pytest.raises(BadRequest, match="responses") as refused:
        client.responses.create(model=MODEL, input="hi")
    assert refused.value.code == "limit_not_kept"
    assert not market.seen


async def test_responses_are_refused_under_a_limit_of_an_async_client(tmp_path: Path) -> None:
    market = FakeMarket()
    async with AsyncClient(
        API_KEY, "http://router", home=tmp_path, transport=market.transport(), daily_limit=1
    ) as client:
        with pytest.raises(BadRequest, match="responses"):
            await client.responses.create(model=MODEL, input="hi")
    assert not market.seen
