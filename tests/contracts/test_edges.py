"""A cap that is used up, a session's wrong signature, and a chain whose history contract fails."""

from __future__ import annotations

import pytest

from tests.contracts.test_contract_payers import BAD_SIGNATURE, collect_one, outcome
from tests.contracts.world import World

HISTORY = "0x0000F90827F1C53a10cb7A02335B175320002935"


class TestReserve:
    def test_reverts_when_the_cap_is_used_up(self, world: World) -> None:
        payer, node = world.payer(100), world.node(world.operator())
        signer = world.signer(payer, cap=50)
        world.send(node, world.reserve_call(payer, node, 50, signer=signer))
        with world.reverts("EscrowSignerCapExceeded", 0, 1):
            world.send(node, world.reserve_call(payer, node, 51, signer=signer))


class TestCollectOne:
    def test_skips_what_another_signed_for_a_session_signer(self, world: World) -> None:
        payer, node = world.payer(100), world.node(world.operator())
        signer = world.signer(payer)
        # Not even the payer signs in its signer's name.
        forged = world.item(payer, node, 50, signer=signer, by=payer)
        call = collect_one(world, forged.voucher, forged.signature)
        assert outcome(world, node, call) == (0, [BAD_SIGNATURE])
        right = world.item(payer, node, 50, signer=signer)
        assert outcome(world, node, collect_one(world, right.voucher, right.signature)) == (50, [])


class TestBlockHash:
    @pytest.mark.parametrize("code", ["0x5f5ffd", "0x00"], ids=["reverts", "says nothing"])
    def test_is_unknown_where_the_history_fails(self, world: World, code: str) -> None:
        world.mine(300)
        world.rpc("anvil_setCode", HISTORY, code)
        functions = world.randomness.functions
        current = functions.currentBlock().call()
        assert functions.window().call() > 256
        assert functions.blockHash(current - 257).call() == bytes(32)
        assert functions.blockHash(current - 256).call() == bytes(world.web3.eth.get_block(current - 256)["hash"])
