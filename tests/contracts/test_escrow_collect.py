"""R-23: `collect` pays min(cumulative, covered, cap, funds) less what it paid, and commits to the receipts."""

from __future__ import annotations

import pytest

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from tests.contracts.world import DAY, DOLLAR, ROOT, UNIT, Item, World

BAD_SIGNATURE, UNKNOWN_SIGNER, SIGNER_EXPIRED, NOTHING_DUE = range(4)
NEW_SHARE = 300_000


@pytest.fixture
def owner(world: World) -> SigningKey:
    return world.operator()


@pytest.fixture
def node(world: World, owner: SigningKey) -> SigningKey:
    return world.node(owner)


class TestAmounts:
    def test_pays_the_owner_less_the_audit_share_rounded_up(
        self, world: World, owner: SigningKey, node: SigningKey
    ) -> None:
        payer = world.payer()
        done = world.collect(node, world.item(payer, node, 1001))
        assert (done.paid, done.commit["auditShare"], done.commit["held"]) == (1001, 301, 0)
        assert world.credit(owner) == 700
        assert world.escrow.functions.auditPool().call() == 301
        assert world.account(payer)[0] == 1_000 * DOLLAR - 1001

    def test_pays_each_voucher_once(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        item = world.item(payer, node, 100)
        assert world.collect(node, item).paid == 100
        again = world.collect(node, item)
        assert (again.paid, again.skipped) == (0, [(0, NOTHING_DUE)])
        assert world.collect(node, world.item(payer, node, 130)).ranges == [(100, 130)]
        older = world.collect(node, world.item(payer, node, 90))
        assert older.skipped == [(0, NOTHING_DUE)]

    def test_pays_only_what_receipts_cover(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        assert world.collect(node, world.item(payer, node, 100, covered=60)).ranges == [(0, 60)]
        assert world.collect(node, world.item(payer, node, 100, covered=500)).ranges == [(60, 100)]

    def test_pays_only_what_the_payer_has(self, world: World, node: SigningKey) -> None:
        payer = world.payer(70)
        assert world.collect(node, world.item(payer, node, 100)).ranges == [(0, 70)]
        world.send(payer, world.escrow.functions.deposit(payer.address, 50))
        assert world.collect(node, world.item(payer, node, 100)).ranges == [(70, 100)]

    def test_pays_only_what_the_cap_leaves(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        signer = world.signer(payer, cap=50)
        assert world.collect(node, world.item(payer, node, 30, signer=signer)).paid == 30
        assert world.collect(node, world.item(payer, node, 30, signer=signer, lane=1)).paid == 20
        last = world.collect(node, world.item(payer, node, 40, signer=signer))
        assert last.skipped == [(0, NOTHING_DUE)]

    def test_takes_reserved_money_first(self, world: World, node: SigningKey) -> None:
        payer = world.payer(100)
        world.send(node, world.reserve_call(payer, node, 40))
        assert world.collect(node, world.item(payer, node, 50)).paid == 50
        assert world.account(payer) == (50, 0, 0, 0)

    def test_keeps_other_nodes_off_reserved_money(self, world: World, owner: SigningKey, node: SigningKey) -> None:
        payer, rival = world.payer(100), world.node(owner)
        world.send(node, world.reserve_call(payer, node, 40))
        assert world.collect(rival, world.item(payer, rival, 100)).paid == 60
        assert world.collect(node, world.item(payer, node, 100)).paid == 40

    def test_adds_up_over_a_batch(self, world: World, owner: SigningKey, node: SigningKey) -> None:
        payers = [world.payer(1_000) for _ in range(3)]
        items = [world.item(payer, node, 100 + i, lane=i) for i, payer in enumerate(payers)]
        done = world.collect(node, *items)
        assert done.paid == 303
        assert done.ranges == [(0, 100), (0, 101), (0, 102)]
        for i, payer in enumerate(payers):
            channel = world.escrow.functions.channel(payer.address, payer.address, node.address, i).call()
            assert channel == 100 + i

    def test_pays_one_channel_twice_in_a_batch_only_its_growth(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        low, high = world.item(payer, node, 40), world.item(payer, node, 100)
        assert world.collect(node, low, high, high).ranges == [(0, 40), (40, 100)]


class TestSkips:
    def test_skips_a_bad_signature_and_pays_the_rest(self, world: World, node: SigningKey) -> None:
        payer, thief = world.payer(), SigningKey.generate()
        bad = world.item(payer, node, 100, by=thief)
        done = world.collect(node, bad, world.item(payer, node, 60))
        assert (done.paid, done.skipped, done.ranges) == (60, [(0, BAD_SIGNATURE)], [(0, 60)])

    def test_makes_no_commit_of_skipped_items_alone(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        done = world.collect(node, world.item(payer, node, 100, by=SigningKey.generate()))
        assert (done.commit, done.skipped) == ({}, [(0, BAD_SIGNATURE)])
        assert world.escrow.functions.commitCount().call() == 0

    @pytest.mark.parametrize("signature", [b"\0" * 64, b"\xff" * 64, b"\0" * 32 + b"\x01" * 32])
    def test_skips_what_is_no_signature_even_of_nobody(self, world: World, node: SigningKey, signature: bytes) -> None:
        payer = world.payer()
        item = world.item(payer, node, 100)
        assert world.collect(node, Item(item.voucher, signature, 100)).skipped == [(0, BAD_SIGNATURE)]

    def test_skips_the_second_spelling_of_a_signature(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        item = world.item(payer, node, 100)
        order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
        word = int.from_bytes(item.signature[32:], "big")
        flipped = (order - (word & ((1 << 255) - 1))) | ((word >> 255 ^ 1) << 255)
        twin = item.signature[:32] + (flipped % (1 << 256)).to_bytes(32, "big")
        assert world.collect(node, Item(item.voucher, twin, 100)).skipped == [(0, BAD_SIGNATURE)]

    def test_skips_strangers_and_expired_signers(self, world: World, node: SigningKey) -> None:
        payer, stranger = world.payer(), SigningKey.generate()
        signer = world.signer(payer, life=DAY)
        world.jump(2 * DAY)
        items = (world.item(payer, node, 9, signer=stranger), world.item(payer, node, 9, signer=signer))
        assert world.collect(node, *items).skipped == [(0, UNKNOWN_SIGNER), (1, SIGNER_EXPIRED)]

    def test_pays_no_voucher_of_another_node(self, world: World, owner: SigningKey, node: SigningKey) -> None:
        payer, other = world.payer(), world.node(owner)
        assert world.collect(node, world.item(payer, other, 100)).skipped == [(0, BAD_SIGNATURE)]


class TestRefusals:
    def test_reverts_when_the_length_is_malformed(self, world: World, node: SigningKey) -> None:
        item = world.item(world.payer(), node, 100).pack()
        for items in (b"", item[:-1], item + b"\0"):
            with world.reverts("EscrowMalformedItems", len(items)):
                world.send(node, world.escrow.functions.collect(node.address, items, ROOT))

    def test_reverts_when_there_is_no_root(self, world: World, node: SigningKey) -> None:
        item = world.item(world.payer(), node, 100)
        with world.reverts("EscrowZeroRoot"):
            world.send(node, world.collect_call(node, item, root=bytes(32)))

    def test_reverts_when_the_node_is_unknown(self, world: World) -> None:
        stranger = world.party()
        with world.reverts("EscrowUnknownNode"):
            world.send(stranger, world.collect_call(stranger, world.item(world.payer(), stranger, 100)))

    def test_reverts_when_the_caller_may_not_commit(self, world: World, owner: SigningKey, node: SigningKey) -> None:
        call = world.collect_call(node, world.item(world.payer(), node, 100))
        rival = world.party()
        with world.reverts("EscrowNotCollector"):
            world.send(rival, call)
        world.send(owner, world.registry.functions.setDelegate(rival.address, True))
        world.send(rival, call)

    def test_a_revoked_node_is_collected_for_by_its_owner_alone(
        self, world: World, owner: SigningKey, node: SigningKey
    ) -> None:
        call = world.collect_call(node, world.item(world.payer(), node, 100))
        world.send(owner, world.registry.functions.revokeNode(node.address))
        with world.reverts("EscrowNotCollector"):
            world.send(node, call)
        world.send(owner, call)


class TestCommit:
    def test_binds_root_ranges_level_and_a_block_to_come(
        self, world: World, owner: SigningKey, node: SigningKey
    ) -> None:
        payer = world.payer()
        done = world.collect(node, world.item(payer, node, 100, lane=7))
        commit = done.commit
        assert commit["commitId"] == 1
        assert (commit["step"], commit["sharePpm"]) == (5 * UNIT, NEW_SHARE)
        assert commit["seedBlock"] == done.receipt["blockNumber"] + 4
        assert commit["time"] == world.now
        packed = bytes.fromhex(payer.address[2:]) * 2 + (7).to_bytes(4, "big") + bytes(12) + (100).to_bytes(12, "big")
        assert commit["ranges"] == packed
        shown = (
            1,
            node.address,
            owner.address,
            ROOT,
            keccak(packed),
            5 * UNIT,
            NEW_SHARE,
            commit["seedBlock"],
            world.now,
        )
        assert world.escrow.functions.isCommit(shown).call()
        for position, wrong in ((1, owner.address), (4, ROOT), (5, 5 * UNIT + 1), (0, 2)):
            forged = (*shown[:position], wrong, *shown[position + 1 :])
            assert not world.escrow.functions.isCommit(forged).call()

    def test_ids_grow_by_one(self, world: World, node: SigningKey) -> None:
        payer = world.payer()
        ids = [world.collect(node, world.item(payer, node, amount)).commit["commitId"] for amount in (1, 2, 3)]
        assert ids == [1, 2, 3]
