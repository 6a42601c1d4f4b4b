"""Amounts as people write them, and whom the commands talk to."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_market import MODEL

from retally.cli.amounts import parse_amount, show_amount
from retally.errors import BadRequest
from retally.home import Context
from retally.protocol.eip712 import SigningKey

KEY = SigningKey(bytes(31) + b"\x0d")


class TestAmounts:
    @given(st.integers(1, 2**96 - 1))
    def test_what_is_shown_can_be_read_back(self, amount: int) -> None:
        assert parse_amount(show_amount(amount).replace(",", "")) == amount

    @pytest.mark.parametrize(("text", "amount"), [("12.5", 12_500_000), ("0.000001", 1), ("1_000 rUSD", 10**9)])
    def test_reads_decimals(self, text: str, amount: int) -> None:
        assert parse_amount(text) == amount
        assert Decimal(amount) / 10**6 > 0

    @pytest.mark.parametrize("text", ["", "0", "-1", "1e-7", "ten", "NaN", "1e40"])
    def test_refuses_the_rest(self, text: str) -> None:
        with pytest.raises(BadRequest):
            parse_amount(text)


class TestContext:
    def state(self, home: Path, pid: int) -> None:
        folder = home / "devnet"
        folder.mkdir(parents=True)
        payer = {"address": KEY.address, "key": KEY.secret.hex()}
        state = {"router_url": "http://devnet", "rpc_url": "http://chain", "model": MODEL, "payer": payer}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "supervisor.json").write_text(json.dumps({"pid": pid, "started": 0}))

    def test_a_running_devnet_is_found(self, tmp_path: Path) -> None:
        self.state(tmp_path, os.getpid())
        context = Context.load(home=tmp_path, environ={})
        assert (context.router_url, context.model, context.address) == ("http://devnet", MODEL, KEY.address)

    def test_a_dead_devnet_is_not(self, tmp_path: Path) -> None:
        self.state(tmp_path, 2**22 + 1)
        assert Context.load(home=tmp_path, environ={}).router_url is None

    def test_flags_win_over_environment_over_devnet(self, tmp_path: Path) -> None:
        self.state(tmp_path, os.getpid())
        environ = {"RETALLY_ROUTER_URL": "http://environment", "RETALLY_RPC_URL": "http://environment"}
        context = Context.load(home=tmp_path, environ=environ, flags={"router_url": "http://flag"})
        assert (context.router_url, context.rpc_url) == ("http://flag", "http://environment")
        assert KEY.secret.hex() not in repr(context)
