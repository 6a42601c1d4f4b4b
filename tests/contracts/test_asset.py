"""The devnet's asset and the randomness of blocks."""

from __future__ import annotations

from tests.contracts.world import DOLLAR, FUNDS, World


class TestDevAsset:
    def test_is_a_dollar_of_six_decimals_for_everybody(self, world: World) -> None:
        functions = world.asset.functions
        assert (functions.symbol().call(), functions.decimals().call()) == ("rUSD", 6)
        party = world.party()
        world.send(party, functions.faucet(party.address, DOLLAR))
        assert world.balance(party) == FUNDS + DOLLAR

    def test_reverts_when_the_faucet_is_asked_for_too_much(self, world: World) -> None:
        party = world.party()
        with world.reverts("DevAssetFaucetLimit", 10**12 + 1, 10**12):
            world.send(party, world.asset.functions.faucet(party.address, 10**12 + 1))


class TestBlockhashRandomness:
    def test_reads_hashes_from_history_and_opcode_alike(self, world: World) -> None:
        world.mine(300)
        functions = world.randomness.functions
        current = functions.currentBlock().call()
        for number in (current - 1, current - 256, current - 257, current - 290):
            expected = bytes(world.web3.eth.get_block(number)["hash"])
            assert functions.blockHash(number).call() == expected

    def test_is_zero_for_what_does_not_exist_or_is_gone(self, world: World) -> None:
        functions = world.randomness.functions
        assert functions.window().call() == 8191
        current = functions.currentBlock().call()
        for number in (current, current + 1):
            assert functions.blockHash(number).call() == bytes(32)
        # As seen from a block far ahead: mining 8,191 blocks takes too long.
        call = {"to": world.randomness.address, "data": world.randomness.encode_abi("blockHash", args=[current - 1])}
        ahead = {"number": hex(current + 8191)}
        assert world.rpc("eth_call", call, "latest", {}, ahead) == "0x" + "00" * 32

    def test_falls_back_to_the_opcode_where_no_history_is_kept(self, world: World) -> None:
        world.rpc("anvil_setCode", "0x0000F90827F1C53a10cb7A02335B175320002935", "0x")
        world.mine(300)
        functions = world.randomness.functions
        current = functions.currentBlock().call()
        assert functions.window().call() == 256
        assert functions.blockHash(current - 256).call() == bytes(world.web3.eth.get_block(current - 256)["hash"])
        assert functions.blockHash(current - 257).call() == bytes(32)
