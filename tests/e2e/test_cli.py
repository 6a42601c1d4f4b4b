"""The `retally` command against a whole network, as a person types it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.terminal import Terminal

from retally.devnet.network import Network

DAYS = 86_400

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def terminal(devnet: Network, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    made = Terminal(devnet, tmp_path_factory.mktemp("cli"))
    made.json("wallet", "create")
    made.json("faucet", "500")
    made.json("deposit", "200")
    return made


class TestProcess:
    def test_the_installed_command_works_alone(self, terminal: Terminal) -> None:
        command = [sys.executable, "-m", "retally", "balance", "--json"]
        environment = os.environ | terminal.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["address"] == terminal.json("wallet", "address")["address"]


class TestMoney:
    def test_deposits_are_available(self, terminal: Terminal) -> None:
        account = terminal.json("balance")
        assert int(account["available"]) + int(account["thawing"]) >= 190_000_000
        assert account["reserved"] == "0"
        assert "available" in terminal.run("balance")

    def test_nobody_deposits_what_it_lacks(self, terminal: Terminal) -> None:
        assert terminal.json("deposit", "900000", code=4)["error"]["code"] == "insufficient_funds"

    def test_withdrawing_thaws_first(self, terminal: Terminal, devnet: Network) -> None:
        thawing = terminal.json("withdraw", "5")
        assert (thawing["action"], thawing["thawing"]) == ("thawing", "5000000")
        early = terminal.json("withdraw", code=1)["error"]
        assert early["contractError"] == "EscrowStillThawing"
        asyncio.run(devnet.jump(3 * DAYS + 60))
        paid_out = terminal.json("withdraw")
        assert (paid_out["action"], paid_out["thawing"]) == ("withdrawn", "0")

    def test_a_thaw_can_be_cancelled(self, terminal: Terminal) -> None:
        before = terminal.json("balance")["available"]
        terminal.json("withdraw", "3")
        assert terminal.json("withdraw", "--cancel")["available"] == before


class TestKeys:
    def test_a_key_is_created_used_and_revoked(self, terminal: Terminal) -> None:
        key = terminal.json("keys", "create", "--cap", "2")
        listed = terminal.json("keys", "list")["keys"]
        assert [(entry["keyId"], entry["cap"]) for entry in listed] == [(key["keyId"], "2000000")]
        answer = terminal.json("chat", "Hello", "--max-tokens", "12", RETALLY_API_KEY=key["apiKey"])
        assert answer["text"]
        assert set(answer["checks"].values()) == {True}
        assert terminal.json("keys", "revoke", key["keyId"])["transaction"]
        assert terminal.json("keys", "list")["keys"] == []
        refused = terminal.json("chat", "Hello", code=1, RETALLY_API_KEY=key["apiKey"])
        assert refused["error"]["code"] == "invalid_api_key"

    def test_an_unknown_key_is_3(self, terminal: Terminal) -> None:
        terminal.json("keys", "revoke", "0" * 16, code=3)


class TestMarket:
    def test_shows_what_is_for_sale(self, terminal: Terminal, devnet: Network) -> None:
        assert [model["id"] for model in terminal.json("models")["models"]] == [devnet.model]
        assert len(terminal.json("nodes")["nodes"]) == len(devnet.nodes)
        assert isinstance(terminal.json("cases")["cases"], list)
        terminal.json("cases", "999", code=3)

    def test_chats_with_ones_own_key_and_keeps_proof(self, terminal: Terminal, tmp_path: Path) -> None:
        answer = terminal.json("chat", "What is a dict?", "--own-key", "--max-tokens", "24", "--limit", "1")
        assert set(answer["checks"].values()) == {True}
        assert answer["jobId"] in [job["jobId"] for job in terminal.json("jobs")["jobs"]]
        file = tmp_path / "job.json"
        file.write_text(json.dumps(terminal.json("receipt", answer["jobId"])))
        prompt = tmp_path / "prompt.json"
        prompt.write_text(json.dumps({"messages": [{"role": "user", "content": "What is a dict?"}]}))
        verified = terminal.json("verify-receipt", str(file), "--prompt", str(prompt))
        assert verified["passed"]
        assert verified["complete"]

    @pytest.mark.parametrize("own_key", [True, False])
    def test_re_executes_an_answer(self, terminal: Terminal, devnet: Network, engine_url: str, own_key: bool) -> None:
        words = ("chat", "What is a tuple?", "--max-tokens", "24", *(["--own-key"] if own_key else []))
        asked = terminal.json(*words, RETALLY_API_KEY=devnet.api_key)
        words = ("verify", asked["jobId"], "--ask", "What is a tuple?", "--engine-url", engine_url)
        found = terminal.json(*words)
        assert (found["verdict"], found["brokenRules"]) == ("match", [])
        [replay] = found["receipts"][0]["replays"]
        assert [token["claimedId"] for token in replay["tokens"]] == asked["ids"]["0"]
        assert "match: e = " in terminal.run(*words)
        terminal.json(*words[:3], "Something else", code=2)

    def test_proves_that_a_receipt_was_committed(self, terminal: Terminal, devnet: Network) -> None:
        job_id = terminal.json("chat", "What is a set?", "--own-key", "--max-tokens", "16")["jobId"]
        assert terminal.json("receipt", job_id, "--inclusion")["inclusion"] == []
        asyncio.run(devnet.settle_all())
        [proven] = terminal.json("receipt", job_id, "--inclusion")["inclusion"]
        assert proven["included"]

    def test_a_limit_is_4(self, terminal: Terminal) -> None:
        terminal.json("chat", "Hello", "--own-key", "--limit", "0.00001", code=4)
