"""One key in two hands: programs that send with it wait for each other, and what was cut short is not sent twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.deployment import Deployment
from retally.chain.file_lock import locked
from retally.chain.transactions import TxSender, _NonceTaken, _Pending
from retally.errors import UpstreamTimeout
from retally.protocol.eip712 import SigningKey
from tests.contracts.world import DOLLAR, World
from tests.unit.test_cli import Shell


@pytest.fixture
async def chain(world: World) -> AsyncIterator[Chain]:
    """Our client on the tests' chain."""
    async with Chain(world.url, Deployment.from_json(world.deployment)) as opened:
        yield opened


async def cut_short(sender: TxSender, call: ContractCall, *, sent: bool = False) -> _Pending:
    """What Ctrl-C leaves of a send."""
    request = await sender._prepare(call, 0)
    pending = _Pending(int(request["nonce"], 16), call.label, request, [], [])
    sender._sign(pending)
    if sent:
        await sender._submit(pending.raws[-1])
    return pending


class TestOneKey:
    async def test_of_two_programs(self, world: World, chain: Chain, tmp_path: Path) -> None:
        payer, store = world.payer(9 * DOLLAR), tmp_path / "pending.json"
        senders = [TxSender(chain, payer, store) for _ in range(3)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(sender.send(chain.escrow.thaw(DOLLAR)) for sender in senders))
        assert (await chain.escrow.account(payer.address)).thawing == 3 * DOLLAR

    async def test_of_another_wallet_that_was_faster(self, world: World, chain: Chain, tmp_path: Path) -> None:
        payer, store = world.payer(9 * DOLLAR), tmp_path / "pending.json"
        sender = TxSender(chain, payer, store)
        lost = await cut_short(sender, chain.escrow.thaw(DOLLAR))
        await TxSender(chain, payer).send(chain.escrow.thaw(2 * DOLLAR))
        async with asyncio.timeout(20):
            with pytest.raises(_NonceTaken):
                await sender._settle(lost)
        assert not store.exists()

    async def test_waits_for_a_lock_so_long(self, tmp_path: Path) -> None:
        async with locked(tmp_path / "a.json", 1):
            with pytest.raises(UpstreamTimeout):
                async with locked(tmp_path / "a.json", 0.2):
                    pass
        async with locked(tmp_path / "a.json", 0):
            pass


class TestResume:
    @pytest.mark.parametrize("sent", [False, True])
    async def test_tells_what_it_finished(self, world: World, chain: Chain, tmp_path: Path, sent: bool) -> None:
        sender = TxSender(chain, world.payer(9 * DOLLAR), tmp_path / "pending.json")
        await cut_short(sender, chain.escrow.thaw(DOLLAR), sent=sent)
        resumed = await sender.resume()
        assert resumed is not None
        assert resumed.is_call(chain.escrow.thaw(DOLLAR))
        assert not resumed.is_call(chain.escrow.thaw(2 * DOLLAR))
        assert await sender.resume() is None


class TestCommands:
    @pytest.fixture
    def shell(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
        (tmp_path / "deployment.json").write_text(json.dumps(world.deployment))
        made = Shell(tmp_path / "home", monkeypatch)
        made.set(RPC_URL=world.url, DEPLOYMENT=str(tmp_path / "deployment.json"))
        return made

    def leave(self, world: World, shell: Shell, payer: SigningKey, name: str, amount: int) -> None:
        async def work() -> None:
            async with Chain(world.url, Deployment.from_json(world.deployment)) as chain:
                sender = TxSender(chain, payer, shell.home / "transactions" / f"31337-{payer.address}.json")
                call = chain.escrow.thaw(amount) if name == "thaw" else chain.escrow.deposit(payer.address, amount)
                if name == "deposit":
                    await sender.send(chain.asset.approve(chain.escrow.address, 2 * amount))
                await cut_short(sender, call)

        shell.set(KEY=payer.secret.hex())
        asyncio.run(work())

    def test_a_deposit_that_was_cut_short_is_made_once(self, world: World, shell: Shell) -> None:
        payer = world.payer(9 * DOLLAR)
        self.leave(world, shell, payer, "deposit", DOLLAR)
        assert shell.json("deposit", "1")["available"] == str(10 * DOLLAR)
        assert shell.json("deposit", "1")["available"] == str(11 * DOLLAR)

    @pytest.mark.parametrize("wanted", ["9", "--all"])
    def test_a_thaw_that_was_cut_short_is_begun_once(self, world: World, shell: Shell, wanted: str) -> None:
        payer = world.payer(9 * DOLLAR)
        self.leave(world, shell, payer, "thaw", 9 * DOLLAR)
        assert shell.json("withdraw", wanted)["thawing"] == str(9 * DOLLAR)

    def test_nothing_free_points_to_the_payout(self, world: World, shell: Shell) -> None:
        payer = world.payer(9 * DOLLAR)
        shell.set(KEY=payer.secret.hex())
        shell.json("withdraw", "--all")
        assert "retally withdraw" in shell.json("withdraw", "--all", code=4)["error"]["hint"]
