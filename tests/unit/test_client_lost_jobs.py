"""Jobs that ended without their receipts: what was promised for them is neither paid unseen nor stuck for ever."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests.fakes_job import NOW
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, render
from tests.fakes_market import error as refusal

from retally import AsyncClient, Client, PaymentTerms, SigningKey, Wallet, result_of
from retally.errors import SpendingLimitExceeded
from retally.job_history import JobHistory
from retally.job_meter import TOKENS_AHEAD
from retally.protocol.encoding import keccak
from retally.protocol.job import JobRequest
from retally.stored_job import evidence_of

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")


def new_client(market: FakeMarket, wallet: Wallet, home: Path, **options: Any) -> Client:
    terms = PaymentTerms(backoff_seconds=0.001)
    transport = market.transport()
    return Client(
        base_url="http://router", wallet=wallet, home=home, transport=transport, renderer=render, terms=terms, **options
    )


def leave_after_one_frame(client: Client, **options: Any) -> str:
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **options)
    next(iter(stream))
    stream.close()
    return str(result_of(stream).job_id)


@dataclass
class RubbishMarket(FakeMarket):
    """Answers every look-up of receipts with what is none."""

    rubbish: Any = None

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if "/receipts/" in request.url.path:
            return httpx2.Response(200, json=self.rubbish)
        return super().handle(request)


class TestRubbish:
    @pytest.mark.parametrize("receipts", [[1], None, [{}], [{"receipt": {}, "signature": "0x"}], "none", [None]])
    def test_of_one_node_stops_no_job_at_another(self, tmp_path: Path, receipts: Any) -> None:
        market = RubbishMarket(rubbish={"receipts": receipts})
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path)
        leave_after_one_frame(client)
        market.node_key = SigningKey(keccak(b"another node"))
        assert result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).checks.passed
        wallet.close()
        restarted = new_client(market, Wallet(KEY, DOMAIN, tmp_path), tmp_path)
        assert result_of(restarted.chat.completions.create(model=MODEL, messages=QUESTION)).checks.passed


class TestCancelled:
    @pytest.fixture
    def market(self) -> FakeMarket:
        return FakeMarket(text="x" * 600)

    def test_stream_is_paid_as_far_as_a_node_may_be_ahead(self, market: FakeMarket, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path, history=True, spending_limit=100_000)
        job_id = leave_after_one_frame(client, max_tokens=600)
        market.running[job_id].cancel(4 + TOKENS_AHEAD)
        cost = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)).cost
        kept = JobHistory(tmp_path / "jobs.sqlite").get(job_id)
        assert len(evidence_of(kept).receipts) == 1
        assert wallet.line(market.node_key.address).closed == int(kept["cost"]) + cost
        assert client.payment.guard.used == int(kept["cost"]) + cost

    def test_stream_is_not_paid_beyond_that(self, market: FakeMarket, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path, history=True)
        job_id = leave_after_one_frame(client, max_tokens=600)
        market.running[job_id].cancel(600)
        billed = market.line(KEY.address, KEY.address, wallet.lane).cum_to
        # The node wants all of it before it serves again.
        market.ask_more = billed + 600
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
        assert max(market.vouchers) < billed
        kept = JobHistory(tmp_path / "jobs.sqlite").get(job_id)
        assert "above the most" in kept["paymentError"]
        assert len(evidence_of(kept).receipts) == 1
        assert job_id not in [job.job_id for job in wallet.stale()]


@dataclass
class RefusingMarket(FakeMarket):
    """Each quote names another node; each of them keeps the voucher and refuses."""

    kept: dict[str, int] = field(default_factory=dict)
    status: int = 503

    def quote(self, request: httpx2.Request) -> httpx2.Response:
        self.node_key = SigningKey(keccak(self.node_key.secret))
        return super().quote(request)

    def complete(self, request: httpx2.Request) -> httpx2.Response:
        voucher = content_of(request)["voucher"]
        self.kept[voucher["node"]] = int(voucher["cumulative"])
        return refusal(self.status, "node_unavailable" if self.status == 503 else "offer_expired")


def content_of(request: httpx2.Request) -> Any:
    header = request.headers["x-retally-authorization"]
    return json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))


class TestLimits:
    @pytest.mark.parametrize("status", [503, 400])
    def test_bounds_what_refusing_nodes_keep(self, tmp_path: Path, status: int) -> None:
        market = RefusingMarket(status=status)
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path, spending_limit=4_000, daily_limit=4_000)
        for _ in range(6):
            with pytest.raises((openai.APIStatusError, SpendingLimitExceeded)):
                client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=100)
        assert 0 < sum(market.kept.values()) <= 4_000
        assert client.payment.guard.used == sum(market.kept.values())

    def test_is_not_used_up_by_lost_calls(self, tmp_path: Path) -> None:
        market = FakeMarket(drop=10**6)
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path, spending_limit=2_000, daily_limit=2_000)
        for _ in range(10):
            with pytest.raises(openai.APIConnectionError):
                client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200)
        assert len(list(wallet.stale())) == 10
        promised = wallet.line(market.node_key.address).promised
        assert client.payment.guard.used == promised < 2_000
        market.drop = 0
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200)
        assert market.vouchers == [promised]
        assert client.payment.guard.used == result_of(answer).cost

    def test_lets_go_of_a_cancelled_await(self, tmp_path: Path) -> None:
        market, wallet = FakeMarket(), Wallet(KEY, DOMAIN, tmp_path)

        class Hanging(httpx2.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                if request.url.path.endswith("completions"):
                    await asyncio.sleep(60)
                return market.handle(request)

        async def give_up(client: AsyncClient) -> None:
            work = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(work, 0.1)

        async def give_up_often() -> None:
            client = AsyncClient(
                base_url="http://router", wallet=wallet, home=tmp_path, transport=Hanging(), spending_limit=2_000
            )
            for number in range(1, 4):
                await give_up(client)
                assert len(list(wallet.stale())) == number
            assert client.payment.guard.used == wallet.line(market.node_key.address).promised

        asyncio.run(give_up_often())


@dataclass
class LateMarket(FakeMarket):
    """Serves one job whose answer is lost on its way, and says so of the same request again."""

    lose: int = 1

    def complete(self, request: httpx2.Request) -> httpx2.Response:
        content = content_of(request)
        job_id = "0x" + JobRequest.from_wire(content["request"]).digest(DOMAIN).hex()
        if job_id in self.jobs:
            return refusal(409, "duplicate_job")
        if not self.lose:
            return super().complete(request)
        self.lose -= 1
        body = json.loads(request.content)
        self.signed_job(body, "chat", request.headers["x-retally-authorization"]).cancel(20)
        raise httpx2.ReadTimeout("lost", request=request)


class TestServedAllTheSame:
    def test_duplicate_is_paid_by_its_receipts(self, tmp_path: Path) -> None:
        market, wallet = LateMarket(), Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path, history=True, spending_limit=100_000)
        with pytest.raises(openai.ConflictError):
            client.chat.completions.create(model=MODEL, messages=QUESTION)
        node = market.node_key.address
        billed = market.line(KEY.address, KEY.address, wallet.lane).cum_to
        assert wallet.line(node).closed == billed
        assert int(JobHistory(tmp_path / "jobs.sqlite").get(market.jobs[0])["cost"]) == billed
        stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        list(stream)
        assert result_of(stream).payment_error is None
        assert wallet.line(node).closed == billed + result_of(stream).cost == client.payment.guard.used


class HidingMarket(FakeMarket):
    """Shows no receipts, and quotes at a time after the first job's deadline."""

    later: int = 0

    def quote(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={**json.loads(super().quote(request).content), "now": NOW + self.later})

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if "/receipts/" in request.url.path:
            return httpx2.Response(200, json={"receipts": []})
        return super().handle(request)


class TestForgotten:
    def test_job_that_is_billed_leaves_later_receipts_whole(self, tmp_path: Path) -> None:
        market, wallet = HidingMarket(), Wallet(KEY, DOMAIN, tmp_path)
        client = new_client(market, wallet, tmp_path)
        market.running[leave_after_one_frame(client)].cancel(8)
        market.later = 700
        for _ in range(3):
            stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            list(stream)
            assert result_of(stream).payment_error is None
        line = wallet.line(market.node_key.address)
        assert (line.closed, len(line.detached), line.open) == (0, 1, {})
