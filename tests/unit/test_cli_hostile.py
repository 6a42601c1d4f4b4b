"""The `retally` command among strangers: what they answer ends no command, and moves nobody's cursor."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from tests.unit.test_cli import KEY, Shell

from retally.bounded_read import json_or_none
from retally.cli import session as cli_session
from retally.cli.plain_text import Cleaned, clean
from retally.errors import BadRequest, PayloadTooLarge, UpstreamTimeout
from retally.home import Context
from retally.node_client import NodeClient, _Somebody

EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2J"


class Stranger:
    """Answers every request with what it is told to."""

    status = 200
    body: bytes = b"{}"
    drips = False
    url = ""

    def says(self, content: object, status: int = 200) -> None:
        self.body, self.status = json.dumps(content).encode(), status


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(made.status)
            self.end_headers()
            try:
                while made.drips:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
                self.wfile.write(made.body)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.drips = False
    server.shutdown()
    server.server_close()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: Stranger) -> Shell:
    made = Shell(tmp_path / "home", monkeypatch)
    made.set(ROUTER_URL=stranger.url)
    return made


def model(name: str, price: str = "1") -> dict[str, Any]:
    return {"data": [{"id": name, "retally": {"nodes": 1, "maxContext": 1, "priceIn": price}}]}


class TestTexts:
    def test_of_a_table(self, shell: Shell, stranger: Stranger) -> None:
        stranger.says(model(f"m[/x]{EVIL}"))
        printed = shell.run("models")
        assert "m[/x]" in printed
        assert "\x1b" not in printed
        assert "\x9b" not in printed

    @pytest.mark.parametrize("text", ["[/x]", "pay \\[/x]", f"pay {EVIL}"])
    def test_of_an_error(self, shell: Shell, stranger: Stranger, text: str) -> None:
        stranger.says({"error": {"message": text, "hint": text}}, 402)
        printed = shell.run("models", code=4)
        assert clean(text) in printed
        assert "\x1b" not in printed

    def test_of_a_view_of_ours(self) -> None:
        console = Console(force_terminal=True, color_system="standard")
        with console.capture() as shown:
            console.print(Cleaned(Text(f"a{EVIL}b", style="red")))
        assert shown.get() == "\x1b[31ma]52;c;ZXZpbA==[2J2Jb\x1b[0m\n"


class TestAnswers:
    @pytest.mark.parametrize("body", [[], {"data": None}, {"data": [1]}, model("x", "abc")])
    def test_of_another_shape(self, shell: Shell, stranger: Stranger, body: object) -> None:
        stranger.says(body)
        assert shell.json("models", code=1)["error"]["code"] == "unreadable_answer"

    def test_without_an_end(self, shell: Shell, stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_session, "LONGEST_SECONDS", 0.5)
        stranger.drips = True
        assert shell.json("models", code=1)["error"]["code"] == UpstreamTimeout.code

    def test_too_long(self, shell: Shell, stranger: Stranger) -> None:
        stranger.body = b" " * (cli_session.MOST_BYTES + 1)
        assert shell.json("models", code=1)["error"]["code"] == PayloadTooLarge.code

    async def test_of_a_node_without_an_end(self, stranger: Stranger) -> None:
        stranger.drips = True
        client = NodeClient(0.3)
        with pytest.raises(UpstreamTimeout):
            await client.address_at(stranger.url)
        await client.close()

    async def test_of_a_node_that_nests_deep(self, stranger: Stranger) -> None:
        stranger.body = b"[" * 95_000
        client = NodeClient(5)
        with pytest.raises(BadRequest):
            await client.inclusions(_Somebody(stranger.url), "0x")
        await client.close()

    def test_nested_deep_is_an_error(self) -> None:
        with pytest.raises(BadRequest):
            json_or_none(b"[" * 95_000)

    @pytest.mark.parametrize(
        "code",
        [
            "from retally.chain import web3_exchange",
            "from retally.chain import transactions",
            "from retally.chain import deploy",
            "from pathlib import Path; from retally.keystore import *\n"
            "Keystore(Path(sys.argv[1]), iterations=2).add(SigningKey(b'1' * 32), 'x')",
        ],
    )
    def test_no_part_raises_python_s_own_bound(self, code: str, tmp_path: Path) -> None:
        command = [sys.executable, "-c", f"import sys; {code}; print(sys.getrecursionlimit())", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) <= 1000


class TestJsonOfErrors:
    @pytest.mark.parametrize(
        "args", [("deposit",), ("frobnicate",), ("deposit", "--no-such"), ("chat", "hi", "--max-tokens", "abc")]
    )
    def test_wrong_usage(self, shell: Shell, args: tuple[str, ...]) -> None:
        assert shell.json(*args, code=2)["error"]["code"] == "usage"

    def test_what_nobody_thought_of(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(cli_session.Session, "router", broken)
        assert shell.json("models", code=1)["error"]["code"] == "internal_error"

    @pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999"])
    def test_no_url(self, shell: Shell, url: str) -> None:
        shell.set(ROUTER_URL=url)
        assert "is no URL" in shell.json("models", code=2)["error"]["message"]

    def test_an_endless_amount(self, shell: Shell) -> None:
        assert "no amount" in shell.json("deposit", "9" * 5000, code=2)["error"]["message"]

    @pytest.mark.parametrize("key", ["zz", "0x1234", "00" * 32])
    def test_no_key(self, shell: Shell, key: str) -> None:
        shell.set(KEY=key)
        assert "RETALLY_KEY" in shell.json("wallet", "address", code=2)["error"]["hint"]

    def test_a_key_that_was_cut_off_is_not_imported(self, shell: Shell) -> None:
        shell.set(PASSWORD="secret")
        shell.json("wallet", "import", stdin="00ff\n", code=2)
        assert shell.json("wallet", "list")["keys"] == []

    @pytest.mark.parametrize("content", ["{}", '{"crypto":{}}', "\x00"])
    def test_no_key_file(self, shell: Shell, tmp_path: Path, content: str) -> None:
        shell.set(PASSWORD="secret")
        (tmp_path / "key.json").write_text(content)
        assert (
            "not a key file" in shell.json("wallet", "import", str(tmp_path / "key.json"), code=2)["error"]["message"]
        )
        shell.json("wallet", "import", str(tmp_path), code=2)

    def test_a_stored_key_without_its_address(self, shell: Shell) -> None:
        (shell.home / "keystore").mkdir(parents=True)
        (shell.home / "keystore" / "UTC--x").write_text('{"crypto":{}}')
        assert "address" in shell.json("wallet", "list", code=2)["error"]["message"]

    def test_no_deployment_file(self, shell: Shell, tmp_path: Path) -> None:
        shell.set(RPC_URL="http://127.0.0.1:1", ADDRESS=KEY.address, DEPLOYMENT=str(tmp_path))
        assert "can't be read" in shell.json("balance", code=2)["error"]["message"]
        (tmp_path / "d.json").write_text("no json")
        shell.set(DEPLOYMENT=str(tmp_path / "d.json"))
        assert "no deployment file" in shell.json("balance", code=2)["error"]["message"]

    def test_a_home_that_is_a_file(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        shell.set(HOME=str(tmp_path / "file"))
        assert "no folder" in shell.json("jobs", code=2)["error"]["message"]


class TestAnotherChain:
    @pytest.mark.parametrize("name", ["rpc_url", "deployment"])
    def test_gets_nothing_of_a_devnet(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        devnet = {"router_url": "http://devnet", "rpc_url": "http://chain", "payer": {"key": KEY.secret.hex()}}
        monkeypatch.setattr("retally.home.devnet_state", lambda _: devnet)
        assert Context.load(home=tmp_path, environ={}).router_url == "http://devnet"
        for flags, environ in (({name: "x"}, {}), ({}, {f"RETALLY_{name.upper()}": "x"})):
            context = Context.load(home=tmp_path, environ=environ, flags=flags)
            assert (context.router_url, context.key, context.api_key) == (None, None, None)
