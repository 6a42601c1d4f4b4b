"""A home folder restored from a copy: its record of a lane knows less than the node holds of the signer's vouchers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest
from tests.fakes_job import Line
from tests.fakes_market import DOMAIN, MODEL, FakeMarket
from tests.fakes_market import error as refusal
from tests.unit.test_client_lost_jobs import KEY, QUESTION, content_of, new_client

from retally import Client, Wallet, result_of
from retally.protocol.voucher import Voucher
from retally.protocol.wire import ChannelState


@dataclass
class StrictMarket(FakeMarket):
    """Says what is due, as a node does, and shows its channels."""

    shown_signature: bytes | None = None
    last_signature: bytes = b""

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if "/channels/" not in request.url.path:
            return super().handle(request)
        (line,) = self.lines.values()
        signature = self.shown_signature or self.last_signature
        state = ChannelState(
            best=line.best,
            best_signature=signature,
            last_cum_to=line.cum_to,
            due=line.due,
            open=len(line.open),
            unpaid=0,
        )
        return httpx2.Response(200, json=state.to_wire())

    def complete(self, request: httpx2.Request) -> httpx2.Response:
        content = content_of(request)
        voucher = Voucher.from_wire(content["voucher"])
        line = self.line(voucher.payer, voucher.signer, voucher.lane)
        required = line.due + 100
        if voucher.cumulative < required:
            return refusal(402, "voucher_too_low", {"required": str(required)})
        return super().complete(request)

    def take_voucher(self, voucher: Voucher, signature: bytes) -> Line:
        if voucher.cumulative > self.line(voucher.payer, voucher.signer, voucher.lane).best:
            self.last_signature = signature
        return super().take_voucher(voucher, signature)


class TestRestoredFolder:
    @pytest.fixture
    def market(self) -> StrictMarket:
        return StrictMarket()

    def restored(self, market: StrictMarket, tmp_path: Path) -> Client:
        home, copy = tmp_path / "home", tmp_path / "copy"
        wallet = Wallet(KEY, DOMAIN, home)
        new_client(market, wallet, home).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
        wallet.close()
        shutil.copytree(home, copy)
        wallet = Wallet(KEY, DOMAIN, home)
        client = new_client(market, wallet, home)
        for _ in range(8):
            client.chat.completions.create(model=MODEL, messages=QUESTION)
        wallet.close()
        return new_client(market, Wallet(KEY, DOMAIN, copy), copy)

    def test_goes_on_from_the_signer_s_own_voucher(self, market: StrictMarket, tmp_path: Path) -> None:
        client = self.restored(market, tmp_path)
        for _ in range(3):
            answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
            assert result_of(answer).payment_error is None
        assert client.payment.wallet is not None
        (line,) = market.lines.values()
        assert client.payment.wallet.line(market.node_key.address).closed == line.cum_to <= line.best

    def test_believes_no_voucher_that_the_signer_never_signed(self, market: StrictMarket, tmp_path: Path) -> None:
        client = self.restored(market, tmp_path)
        market.shown_signature = bytes(64)
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5)
        assert refused.value.code == "voucher_too_low"
