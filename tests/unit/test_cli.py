"""The `retally` command: one JSON object with `--json`, the documented exit codes, messages with hints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket
from tests.serve_app import market_app, serve
from typer.testing import CliRunner

from retally.chain.abi import CONTRACTS
from retally.chain.deployment import Deployment
from retally.cli import chat
from retally.cli.main import app, load_service
from retally.cli.output import JsonGroup, exit_code
from retally.errors import RetallyError, TransactionFailed
from retally.job_evidence import Evidence
from retally.job_meter import JobMeter
from retally.job_result import JobResult
from retally.keystore import Keystore
from retally.protocol.eip712 import SigningKey

KEY = SigningKey(bytes(31) + b"\x0d")


class Shell:
    """Runs commands in a home of their own."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        for name in [
            "ROUTER_URL",
            "RPC_URL",
            "API_KEY",
            "MODEL",
            "MODEL_DIR",
            "ADDRESS",
            "KEY",
            "DEPLOYMENT",
            "PASSWORD",
        ]:
            monkeypatch.delenv(f"RETALLY_{name}", raising=False)
        self.set(HOME=str(home), MODEL=MODEL)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"RETALLY_{name}", value)

    def run(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        result = CliRunner().invoke(app, list(args), input=stdin)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result.stdout + result.stderr if code and "--json" not in args else result.stdout

    def json(self, *args: str, code: int = 0, stdin: str | None = None) -> dict[str, Any]:
        printed = self.run(*args, "--json", code=code, stdin=stdin)
        assert printed.count("\n") == 1, printed
        content: dict[str, Any] = json.loads(printed)
        return content


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path / "home", monkeypatch)


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def connected(shell: Shell, market: FakeMarket, tmp_path: Path) -> Iterator[Shell]:
    deployment = tmp_path / "deployment.json"
    contracts = dict.fromkeys([*CONTRACTS, "Asset"], DOMAIN.escrow)
    deployment.write_text(json.dumps(Deployment(31337, 0, contracts).to_json()))
    with serve(market_app(market)) as url:
        shell.set(ROUTER_URL=url, API_KEY=API_KEY, DEPLOYMENT=str(deployment), KEY=KEY.secret.hex())
        yield shell


class TestOutput:
    def test_json_may_stand_anywhere(self, shell: Shell) -> None:
        assert json.loads(shell.run("--json", "version")) == json.loads(shell.run("version", "--json"))

    def test_an_error_is_one_json_object_too(self, shell: Shell) -> None:
        error = shell.json("models", code=2)["error"]
        assert error["code"] == "bad_request"
        assert "RETALLY_ROUTER_URL" in error["hint"]

    def test_an_error_has_a_hint_for_people(self, shell: Shell) -> None:
        printed = shell.run("models", code=2)
        assert "no router is known" in printed
        assert "hint" in printed

    def test_wrong_usage_is_2(self, shell: Shell) -> None:
        shell.run("no-such-command", code=2)
        shell.run("deposit", code=2)

    def test_ctrl_c_is_130(self) -> None:
        interrupted = typer.Typer(cls=JsonGroup)

        @interrupted.command()
        def wait() -> None:
            raise KeyboardInterrupt

        @interrupted.command()
        def other() -> None:
            """A group has two commands."""

        assert CliRunner().invoke(interrupted, ["wait"]).exit_code == 130

    def test_a_chain_out_of_reach_is_5(self, connected: Shell) -> None:
        connected.set(RPC_URL="http://127.0.0.1:9")
        assert connected.json("balance", code=5)["error"]["code"] == "chain_unreachable"

    def test_a_contract_s_refusal_names_its_error(self) -> None:
        assert exit_code(TransactionFailed("EscrowInsufficientBalance", {"available": 1, "required": 2})) == 4
        assert exit_code(TransactionFailed("EscrowStillThawing", {"now": 1, "end": 2})) == 1


class TestWallet:
    def test_creates_and_lists(self, shell: Shell) -> None:
        shell.set(PASSWORD="secret")
        made = shell.json("wallet", "create")
        assert [key["address"] for key in shell.json("wallet", "list")["keys"]] == [made["address"]]
        assert shell.json("wallet", "address")["address"] == made["address"]
        assert Keystore(shell.home / "keystore").unlock("secret").address == made["address"]

    def test_imports_a_key_from_standard_input(self, shell: Shell) -> None:
        shell.set(PASSWORD="secret")
        assert shell.json("wallet", "import", stdin=KEY.secret.hex() + "\n")["address"] == KEY.address

    def test_imports_another_keystore_s_file(self, shell: Shell, tmp_path: Path) -> None:
        shell.set(PASSWORD="secret")
        stored = Keystore(tmp_path / "other", iterations=2).add(KEY, "secret")
        assert shell.json("wallet", "import", str(stored.path))["address"] == KEY.address

    def test_refuses_what_is_no_key(self, shell: Shell) -> None:
        shell.set(PASSWORD="secret")
        assert "no private key" in shell.json("wallet", "import", stdin="hello\n", code=2)["error"]["message"]

    def test_no_key_is_3(self, shell: Shell) -> None:
        assert shell.json("wallet", "address", code=3)["error"]["code"] == "not_found"


class TestMarket:
    def test_shows_models_and_nodes(self, connected: Shell) -> None:
        assert connected.json("models")["models"][0]["id"] == MODEL
        assert connected.json("nodes")["nodes"][0]["routable"]
        assert MODEL in connected.run("models")
        assert "ready" in connected.run("nodes")

    def test_a_dead_router_is_1(self, shell: Shell) -> None:
        shell.set(ROUTER_URL="http://127.0.0.1:9")
        assert shell.json("models", code=1)["error"]["code"] == "router_unreachable"


class TestChat:
    def test_streams_to_people_and_shows_the_cost(self, connected: Shell, market: FakeMarket) -> None:
        printed = connected.run("chat", "Why count twice?")
        assert market.text in printed
        assert "rUSD" in printed

    def test_prints_one_object_with_receipts(self, connected: Shell, market: FakeMarket) -> None:
        answer = connected.json("chat", "Why count twice?", "--seed", "4")
        assert answer["text"] == market.text
        assert len(answer["receipts"]) == 1
        assert answer["checks"]["node_signature"] is True
        assert False not in answer["checks"].values()

    def test_pays_with_ones_own_key(self, connected: Shell, market: FakeMarket) -> None:
        answer = connected.json("chat", "Why count twice?", "--own-key")
        assert answer["receipts"][0]["receipt"]["payer"] == KEY.address
        assert market.vouchers

    def test_overbilling_is_1(self, connected: Shell, market: FakeMarket) -> None:
        market.overbill = 50
        assert "not paid" in connected.run("chat", "Why?", "--own-key", code=1)
        answer = connected.json("chat", "Why?", "--own-key", code=1)
        assert answer["passed"] is False
        assert answer["paymentError"]

    def test_a_voucher_that_gets_lost_is_told(self) -> None:
        evidence = Evidence()
        result = JobResult(evidence, JobMeter(evidence), MODEL)
        result.voucher_error = RetallyError("lost")
        assert "no voucher got through: lost" in chat._summary(result)
        assert chat._outcome(result)["voucherError"] == "lost"

    def test_a_model_s_text_moves_no_cursor(self, connected: Shell, market: FakeMarket) -> None:
        market.text = "hello \x1b]52;c;ZXZpbA==\x1b\\\x1b[2J"
        assert "\x1b" not in connected.run("chat", "Why?")

    def test_a_limit_is_4(self, connected: Shell) -> None:
        refused = connected.json("chat", "Why?", "--own-key", "--limit", "0.000001", code=4)
        assert refused["error"]["code"] == "spending_limit_exceeded"

    def test_an_unknown_model_is_3(self, connected: Shell) -> None:
        error = connected.json("chat", "Why?", "--own-key", "--model", "nobody/none", code=3)["error"]
        assert error["code"] == "model_not_found"

    def test_a_bad_key_is_1(self, connected: Shell) -> None:
        connected.set(API_KEY="rt-other")
        assert connected.json("chat", "Why?", code=1)["error"]["code"] == "invalid_api_key"

    def test_asks_from_standard_input(self, connected: Shell, market: FakeMarket) -> None:
        assert connected.json("chat", stdin="Why count twice?")["text"] == market.text

    def test_refuses_to_ask_nothing(self, connected: Shell) -> None:
        connected.json("chat", stdin="", code=2)


class TestReceipts:
    def test_history_and_proof(self, connected: Shell, tmp_path: Path) -> None:
        job_id = connected.json("chat", "Why count twice?")["jobId"]
        assert [job["jobId"] for job in connected.json("jobs")["jobs"]] == [job_id]
        stored = connected.json("receipt", job_id[:14])
        file = tmp_path / "job.json"
        file.write_text(json.dumps(stored))
        verified = connected.json("verify-receipt", str(file))
        assert verified["passed"]
        prompt = tmp_path / "prompt.json"
        prompt.write_text(json.dumps({"messages": [{"role": "user", "content": "Why count twice?"}]}))
        assert connected.json("verify-receipt", str(file), "--prompt", str(prompt))["checks"]["prompt_hash"] is True

    def test_a_tampered_job_is_1(self, connected: Shell) -> None:
        stored = connected.json("chat", "Why count twice?")
        stored["ids"]["0"][3] += 1
        verified = connected.json("verify-receipt", "-", stdin=json.dumps(stored), code=1)
        assert verified["checks"]["output_root"] is False

    def test_another_prompt_is_1(self, connected: Shell, tmp_path: Path) -> None:
        stored = connected.json("chat", "Why count twice?")
        prompt = tmp_path / "prompt.json"
        prompt.write_text(json.dumps({"messages": [{"role": "user", "content": "Why not?"}]}))
        printed = connected.json("verify-receipt", "-", "--prompt", str(prompt), stdin=json.dumps(stored), code=1)
        assert printed["checks"]["prompt_hash"] is False

    def test_fetches_from_the_router_what_is_not_in_the_history(self, connected: Shell, market: FakeMarket) -> None:
        job_id = connected.json("chat", "Why?")["jobId"]
        (connected.home / "jobs.sqlite").unlink()
        assert connected.json("receipt", job_id)["receipts"] == market.receipts[job_id]

    def test_unknown_is_3(self, shell: Shell) -> None:
        shell.json("receipt", "0xabc", code=3)
        shell.json("verify-receipt", "nowhere.json", code=3)

    def test_refuses_what_is_no_receipt(self, shell: Shell) -> None:
        shell.json("verify-receipt", "-", stdin="{}", code=2)
        shell.json("verify-receipt", "-", stdin="no json", code=2)

    def test_an_empty_history_is_fine(self, shell: Shell) -> None:
        assert shell.json("jobs") == {"jobs": []}


class TestServiceGroups:
    def test_every_service_has_its_group(self, shell: Shell) -> None:
        listed = shell.run("--help")
        for name in ("node", "router", "verifier", "devnet", "doctor"):
            assert f" {name} " in listed

    def test_listing_commands_loads_no_service(self) -> None:
        code = "import sys, retally.cli.main; print([m for m in sys.modules if m.startswith('retally_')])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

    def test_one_that_can_t_be_loaded_says_so(self) -> None:
        group = load_service(EntryPoint("broken", "retally_nowhere.commands:app", "retally.commands"))
        with pytest.raises(RetallyError, match="retally_nowhere"):
            group.main(["serve", "--port", "1"], standalone_mode=False)
        assert group.hidden
