"""What a node withholds, or bills twice, is neither passed nor paid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tests.fakes_market as market_module
from tests.fakes_job import FakeJob
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, render

from retally import Client, PaymentTerms, SigningKey, Wallet, result_of
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import FinishReason

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")


class Withholding(FakeJob):
    """Bills all that may be billed, for a short text without its ids."""

    withheld: tuple[str, ...] = ("ids", "q")

    def output(self, choice: int) -> tuple[list[int], list[int], int]:
        ids = [1] * self.params.max_tokens
        return ids, [0] * len(ids), FinishReason.LENGTH

    def plain(self) -> dict[str, Any]:
        body = super().plain()
        body["choices"][0]["message"]["content"] = "Hi"
        for name in self.withheld:
            del body["retally"][name]
        return body

    def frames(self) -> Iterator[bytes]:
        opening = {"promptTokens": len(self.prompt_ids), "jobId": to_hex(self.job_id), "choice": 0}
        yield self.frame(0, "Hi", None, opening)
        signed = self.close(0, *self.output(0))
        receipt = {"receipt": signed["receipt"], "receiptSignature": signed["signature"]}
        yield self.frame(0, "", "length", {"choice": 0, **receipt})
        yield b"data: [DONE]\n\n"


class WithoutLogprobs(Withholding):
    """Shows ids, but not what is needed to check their root."""

    withheld = ("q",)


class BillsTwice(FakeJob):
    """Two receipts for one output, one after the other on the money line."""

    def plain(self) -> dict[str, Any]:
        body = super().plain()
        self.line.open[f"{to_hex(self.job_id)}/0"] = 0
        second = self.close(0, *self.output(0))
        body["retally"]["receipts"].append(second)
        body["retally"]["cost"] = second["receipt"]["cumTo"]
        return body


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def client(market: FakeMarket, tmp_path: Path) -> Client:
    return Client(
        base_url="http://router",
        wallet=Wallet(KEY, DOMAIN, tmp_path),
        home=tmp_path,
        transport=market.transport(),
        renderer=render,
        terms=PaymentTerms(backoff_seconds=0.001),
    )


@pytest.mark.parametrize(("job", "failed"), [(Withholding, "counts"), (WithoutLogprobs, "output_root")])
def test_a_plain_answer_without_ids_is_not_settled(
    market: FakeMarket, client: Client, monkeypatch: pytest.MonkeyPatch, job: type[FakeJob], failed: str
) -> None:
    monkeypatch.setattr(market_module, "FakeJob", job)
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=500)
    result = result_of(answer)
    assert result.checks[failed] is False
    assert not result.checks.passed
    assert result.payment_error is not None
    assert client.payment.wallet is not None
    assert client.payment.wallet.line(market.node_key.address).closed == 0


def test_a_stream_without_ids_gets_no_voucher_beyond_the_prepaid_one(
    market: FakeMarket, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_module, "FakeJob", Withholding)
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=500, stream=True)
    prepaid = list(market.vouchers)
    list(stream)
    assert result_of(stream).checks["counts"] is False
    assert result_of(stream).payment_error is not None
    assert market.vouchers == prepaid


def test_a_stored_record_without_ids_stays_unknown(market: FakeMarket, client: Client, tmp_path: Path) -> None:
    from retally.checks import run_checks
    from retally.stored_job import evidence_of

    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=20)
    content = json.loads(json.dumps(result_of(answer).to_json()))
    del content["ids"], content["q"]
    checks = run_checks(evidence_of(content, domain=DOMAIN))
    assert checks["counts"] is checks["output_root"] is None
    assert not checks.failures


def test_an_output_that_two_receipts_bill_is_found_and_not_paid(
    market: FakeMarket, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_module, "FakeJob", BillsTwice)
    result = result_of(client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=500))
    assert result.checks["outputs"] is False
    assert result.payment_error is not None
