"""Packed ranges and signatures as Solidity reads them."""

from __future__ import annotations

from collections.abc import Mapping

from compile_contracts import Artifact
from retally.protocol.voucher import channel_key
from tests.contracts.world import World


class TestRanges:
    def test_are_read_as_collect_packs_them(self, world: World, test_contracts: Mapping[str, Artifact]) -> None:
        probe = world.create_test(test_contracts["TypesProbe"])
        node, payer = world.node(world.operator()), world.payer()
        signer = world.signer(payer)
        items = (world.item(payer, node, 5), world.item(payer, node, 7, signer=signer, lane=2**32 - 1))
        packed = world.collect(node, *items).commit["ranges"]
        assert probe.functions.count(packed).call() == 2
        found, key = probe.functions.rangeOf(packed, 1, node.address).call()
        assert tuple(found) == (payer.address, signer.address, 2**32 - 1, 0, 7)
        assert key == channel_key(payer.address, signer.address, node.address, 2**32 - 1)

    def test_reverts_when_malformed_or_beyond_the_end(
        self, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        probe = world.create_test(test_contracts["TypesProbe"])
        with world.reverts("RangesMalformed", 67):
            probe.functions.count(bytes(67)).call()
        with world.reverts("RangeOutOfBounds", 1, 1):
            probe.functions.rangeOf(bytes(68), 1, world.slasher).call()


class TestSignatures:
    def test_are_split_into_two_words(self, world: World, test_contracts: Mapping[str, Artifact]) -> None:
        probe = world.create_test(test_contracts["TypesProbe"])
        assert probe.functions.split(bytes(range(64))).call() == [bytes(range(32)), bytes(range(32, 64))]

    def test_reverts_when_not_64_bytes(self, world: World, test_contracts: Mapping[str, Artifact]) -> None:
        probe = world.create_test(test_contracts["TypesProbe"])
        with world.reverts("SignatureWrongLength", 65):
            probe.functions.split(bytes(65)).call()
