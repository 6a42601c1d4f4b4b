"""Jobs that ended without their receipts: what was promised for them is neither paid unseen nor stuck for ever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes_market import DOMAIN, MODEL, FakeMarket, render

from retally import Client, PaymentTerms, SigningKey, Wallet, result_of
from retally.protocol.encoding import keccak

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
