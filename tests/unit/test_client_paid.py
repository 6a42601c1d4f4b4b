"""`retally.Client` with a wallet: quote, sign, prepay, vouch by own count, check, settle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, render

from retally import Client, PaymentTerms, PriceAboveMax, Prices, SigningKey, SpendingLimitExceeded, Wallet, result_of

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def wallet(tmp_path: Path) -> Wallet:
    return Wallet(KEY, DOMAIN, tmp_path)


def new_client(market: FakeMarket, wallet: Wallet, tmp_path: Path, **options: Any) -> Client:
    terms = options.pop("terms", PaymentTerms(backoff_seconds=0.001))
    return Client(
        base_url="http://router",
        wallet=wallet,
        home=tmp_path,
        transport=market.transport(),
        renderer=render,
        terms=terms,
        **options,
    )


class TestPlain:
    def test_passes_every_check(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        answer = new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION, seed=1)
        result = result_of(answer)
        assert answer.choices[0].message.content == market.text
        assert result.checks.as_dict() == dict.fromkeys(result.checks.as_dict(), True)
        assert result.cost == market.lines[(KEY.address, KEY.address, wallet.lane)].cum_to

    def test_dumps_what_the_router_sent(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        answer = new_client(market, wallet, tmp_path).completions.create(model=MODEL, prompt="again", n=2, seed=1)
        assert answer.model_dump()["retally"]["cost"] == str(result_of(answer).cost)
        assert len(result_of(answer).receipts) == 2

    def test_promises_no_more_than_the_most_a_job_may_cost(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        answer = new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION)
        request = result_of(answer).evidence.request
        assert request is not None
        assert market.vouchers == [request.max_fee]


class TestStreamed:
    def test_pays_each_chunk_and_ends_settled(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        stream = new_client(market, wallet, tmp_path).chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, seed=3
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        result = result_of(stream)
        line = market.lines[(KEY.address, KEY.address, wallet.lane)]
        assert text == market.text
        assert result.finished
        assert result.checks.passed
        assert result.checks.complete
        assert market.unpaid == 0
        assert line.best >= line.cum_to == result.cost
        assert market.vouchers == sorted(market.vouchers)
        assert wallet.line(market.node_key.address).closed == result.cost
        assert not wallet.line(market.node_key.address).open

    def test_pays_every_choice(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        stream = new_client(market, wallet, tmp_path).completions.create(model=MODEL, prompt="x", n=3, stream=True)
        assert len({chunk.choices[0].index for chunk in stream}) == 3
        assert result_of(stream).checks.passed
        assert market.unpaid == 0

    def test_pays_from_one_line_over_many_jobs(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        client = new_client(market, wallet, tmp_path)
        total = 0
        for _ in range(4):
            with client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True) as stream:
                list(stream)
            total += result_of(stream).cost
        line = market.lines[(KEY.address, KEY.address, wallet.lane)]
        assert line.cum_to == total
        # Surplus of one job prepays the next: never more ahead than one prompt's bound.
        assert line.best - line.cum_to < 2 * result_of(stream).cost

    def test_sends_a_voucher_again_that_did_not_get_through(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        market.text, market.credit, market.lose_vouchers = "x" * 24, 1_000, 5
        stream = new_client(market, wallet, tmp_path).completions.create(model=MODEL, prompt="x", stream=True)
        list(stream)
        line = market.lines[(KEY.address, KEY.address, wallet.lane)]
        assert market.lose_vouchers == 0
        assert len(market.vouchers) == 2
        assert line.best == line.cum_to == result_of(stream).cost
        assert result_of(stream).voucher_error is None

    def test_recovers_the_receipt_of_a_cancelled_stream(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        client = new_client(market, wallet, tmp_path)
        stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        next(iter(stream))
        stream.close()
        assert len(list(wallet.stale())) == 1
        line = wallet.line(market.node_key.address)
        started = next(iter(line.open)).split("/")[0]
        # The node notices, closes the segment a little further on, and its receipt is fetched before the next job.
        self.close_as_cancelled(market, wallet, started)
        client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert not list(wallet.stale())
        node_line = market.lines[(KEY.address, KEY.address, wallet.lane)]
        assert wallet.line(market.node_key.address).closed == node_line.cum_to

    def close_as_cancelled(self, market: FakeMarket, wallet: Wallet, job_id: str) -> None:
        job = market.running[job_id]
        job.cancel(8)


class TestRefusals:
    def test_unknown_model_is_openai_s_error(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            new_client(market, wallet, tmp_path).chat.completions.create(model="nobody/none", messages=QUESTION)
        assert refused.value.code == "model_not_found"

    def test_goes_elsewhere_when_a_node_is_busy(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        market.refuse = [(503, "node_unavailable")]
        answer = new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION)
        assert result_of(answer).checks.passed
        # It may have served all the same: it is looked up till its deadline, and owes nothing until then.
        assert [entry.owed for entry in wallet.line(market.node_key.address).open.values()] == [0]

    def test_promises_more_where_an_agreed_limit_explains_it(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        market.ask_more = 700
        stream = new_client(market, wallet, tmp_path).chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, max_tokens=64
        )
        list(stream)
        assert market.vouchers[0] == 700
        assert len(market.jobs) == 1
        assert result_of(stream).checks.passed

    def test_promises_no_more_than_was_agreed(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        market.ask_more = 10**9
        with pytest.raises(openai.APIStatusError) as refused:
            new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION)
        assert refused.value.code == "voucher_too_low"
        assert not market.vouchers
        assert wallet.line(market.node_key.address).promised < 10**9

    def test_sends_the_same_job_again_when_the_line_drops(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        market.drop = 2
        new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION)
        assert len(market.jobs) == 1

    def test_a_dead_router_is_openai_s_connection_error(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        market.drop = 99
        with pytest.raises(openai.APIConnectionError):
            new_client(market, wallet, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION)

    def test_refuses_a_price_above_the_terms(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        client = new_client(market, wallet, tmp_path, terms=PaymentTerms(max_prices=Prices(1, 1, 1)))
        with pytest.raises(PriceAboveMax):
            client.chat.completions.create(model=MODEL, messages=QUESTION)
        assert not market.vouchers

    def test_spending_limit_stops_before_anything_is_promised(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path
    ) -> None:
        with pytest.raises(SpendingLimitExceeded):
            new_client(market, wallet, tmp_path, spending_limit=10).chat.completions.create(
                model=MODEL, messages=QUESTION
            )
        assert not market.vouchers

    def test_daily_limit_outlives_the_client(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        first = new_client(market, wallet, tmp_path, daily_limit=2_000)
        cost = result_of(first.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=40)).cost
        again = new_client(market, wallet, tmp_path, daily_limit=cost + 1)
        with pytest.raises(SpendingLimitExceeded) as refused:
            again.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=40)
        assert refused.value.spent == cost


class TestDishonestNode:
    @pytest.mark.parametrize(
        ("changes", "failed"),
        [
            ({"overbill": 1}, "price"),
            ({"wrong_ids": True}, "output_root"),
            ({"foreign_signature": True}, "node_signature"),
        ],
    )
    def test_is_found_and_not_paid(
        self, market: FakeMarket, wallet: Wallet, tmp_path: Path, changes: dict[str, Any], failed: str
    ) -> None:
        for name, value in changes.items():
            setattr(market, name, value)
        client = new_client(market, wallet, tmp_path)
        stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        prepaid = market.vouchers[0]
        list(stream)
        result = result_of(stream)
        assert not result.checks.passed
        assert result.payment_error is not None
        if failed == "price":
            assert result.checks[failed] is False
        else:
            assert market.vouchers == [prepaid]
            assert market.unpaid or result.checks[failed] is False


class TestCopies:
    def test_with_options_pays_from_the_same_purse(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        client = new_client(market, wallet, tmp_path, spending_limit=100_000)
        answer = client.with_options(timeout=3).chat.completions.create(model=MODEL, messages=QUESTION)
        assert client.payment.guard.used == result_of(answer).cost

    def test_a_copy_does_not_pay_twice_either(self, market: FakeMarket, wallet: Wallet, tmp_path: Path) -> None:
        client = new_client(market, wallet, tmp_path)
        assert client.with_options(max_retries=2).max_retries == 0
        assert client.copy(timeout=3).with_options(max_retries=2).max_retries == 0
