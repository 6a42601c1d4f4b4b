"""Session signers: a proof by the signer, a cap and an expiry that only grow, an end after the thaw."""

from __future__ import annotations

from retally.protocol.eip712 import SigningKey
from tests.contracts.world import DAY, World


class TestAuthorizeSigner:
    def test_stores_cap_and_expiry(self, world: World) -> None:
        payer = world.payer()
        signer, expiry = SigningKey.generate(), world.now + 30 * DAY
        receipt = world.send(payer, world.authorize_call(payer, signer, 500, expiry))
        assert world.escrow.functions.signer(payer.address, signer.address).call() == [500, 0, expiry]
        assert world.events(world.escrow, "SignerAuthorized", receipt)[0]["cap"] == 500

    def test_may_grow_but_not_shrink_while_it_lives(self, world: World) -> None:
        payer = world.payer()
        signer, expiry = SigningKey.generate(), world.now + 30 * DAY
        world.send(payer, world.authorize_call(payer, signer, 500, expiry))
        world.send(payer, world.authorize_call(payer, signer, 600, expiry + 1))
        with world.reverts("EscrowSignerMayOnlyGrow", 600, expiry + 1):
            world.send(payer, world.authorize_call(payer, signer, 599, expiry + 1))
        with world.reverts("EscrowSignerMayOnlyGrow"):
            world.send(payer, world.authorize_call(payer, signer, 600, expiry))

    def test_may_shrink_once_it_has_expired(self, world: World) -> None:
        payer = world.payer()
        signer = world.signer(payer, cap=500, life=5 * DAY)
        world.jump(6 * DAY)
        world.send(payer, world.authorize_call(payer, signer, 100, world.now + DAY))
        assert world.escrow.functions.signer(payer.address, signer.address).call()[0] == 100

    def test_reverts_when_the_proof_is_not_the_signers(self, world: World) -> None:
        payer, signer = world.payer(), SigningKey.generate()
        call = world.authorize_call(payer, signer, 500, world.now + DAY)
        with world.reverts("EscrowBadSignature"):
            world.send(world.party(), call)
        with world.reverts("EscrowSelfSigner"):
            world.send(payer, world.authorize_call(payer, payer, 500, world.now + DAY))

    def test_reverts_when_a_time_has_passed(self, world: World) -> None:
        payer, signer = world.payer(), SigningKey.generate()
        with world.reverts("EscrowAuthExpired"):
            world.send(payer, world.authorize_call(payer, signer, 5, world.now + DAY, deadline=world.now - 1))
        with world.reverts("EscrowSignerExpired"):
            world.send(payer, world.authorize_call(payer, signer, 5, world.now - 1))


class TestRevokeSigner:
    def test_ends_it_after_the_thaw(self, world: World) -> None:
        payer, owner = world.payer(), world.operator()
        node, signer = world.node(owner), world.signer(payer)
        world.send(payer, world.escrow.functions.revokeSigner(signer.address))
        assert world.collect(node, world.item(payer, node, 5, signer=signer)).paid == 5
        world.jump(3 * DAY + 60)
        assert world.collect(node, world.item(payer, node, 9, signer=signer)).skipped == [(0, 2)]

    def test_never_prolongs_it(self, world: World) -> None:
        payer = world.payer()
        signer = world.signer(payer, life=DAY)
        before = world.escrow.functions.signer(payer.address, signer.address).call()
        world.send(payer, world.escrow.functions.revokeSigner(signer.address))
        assert world.escrow.functions.signer(payer.address, signer.address).call() == before

    def test_reverts_when_unknown(self, world: World) -> None:
        payer = world.payer()
        with world.reverts("EscrowSignerUnknown"):
            world.send(payer, world.escrow.functions.revokeSigner(SigningKey.generate().address))


class TestReserve:
    def test_by_the_payer_serves_every_signer(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node, signer = world.node(owner), world.signer(payer)
        world.send(node, world.reserve_call(payer, node, 40))
        assert world.account(payer) == (60, 0, 0, 40)
        assert world.collect(node, world.item(payer, node, 10)).paid == 10
        assert world.collect(node, world.item(payer, node, 25, signer=signer)).paid == 25
        assert world.account(payer) == (60, 0, 0, 5)
        assert world.escrow.functions.signer(payer.address, signer.address).call()[1] == 25

    def test_by_a_signer_serves_it_alone_and_counts_once(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node, signer = world.node(owner), world.signer(payer, cap=50)
        other = world.signer(payer)
        world.send(node, world.reserve_call(payer, node, 30, signer=signer))
        assert world.escrow.functions.signer(payer.address, signer.address).call()[1] == 30
        with world.reverts("EscrowSignerCapExceeded", 20, 21):
            world.send(node, world.reserve_call(payer, node, 51, signer=signer))
        assert world.collect(node, world.item(payer, node, 75, signer=other)).paid == 70
        assert world.account(payer) == (0, 0, 0, 30)
        assert world.collect(node, world.item(payer, node, 75, signer=signer)).paid == 30
        assert world.escrow.functions.signer(payer.address, signer.address).call()[1] == 30
        assert world.account(payer) == (0, 0, 0, 0)

    def test_is_cumulative_within_its_epoch(self, world: World) -> None:
        payer, node = world.payer(100), SigningKey.generate()
        world.send(payer, world.reserve_call(payer, node, 40))
        world.send(payer, world.reserve_call(payer, node, 50))
        assert world.account(payer) == (50, 0, 0, 50)
        with world.reverts("EscrowReservationNotGrowing", 50, 50):
            world.send(payer, world.reserve_call(payer, node, 50))
        with world.reverts("EscrowReservationEpoch", 0, 1):
            world.send(payer, world.reserve_call(payer, node, 60, epoch=1))
        with world.reverts("EscrowInsufficientBalance", 50, 51):
            world.send(payer, world.reserve_call(payer, node, 101))

    def test_takes_from_what_thaws(self, world: World) -> None:
        payer, node = world.payer(100), SigningKey.generate()
        world.send(payer, world.escrow.functions.thaw(100))
        world.send(payer, world.reserve_call(payer, node, 40))
        assert world.account(payer)[:2] == (60, 60)

    def test_reverts_when_signed_by_another(self, world: World) -> None:
        payer, node = world.payer(100), SigningKey.generate()
        signer = world.signer(payer, life=DAY)
        with world.reverts("EscrowBadSignature"):
            world.send(payer, world.reserve_call(payer, node, 1, by=signer))
        with world.reverts("EscrowSelfSigner"):
            world.send(payer, world.reserve_call(payer, node, 1, signer=payer))
        with world.reverts("EscrowSignerUnknown"):
            world.send(payer, world.reserve_call(payer, node, 1, signer=SigningKey.generate()))
        world.jump(2 * DAY)
        with world.reverts("EscrowSignerExpired"):
            world.send(payer, world.reserve_call(payer, node, 1, signer=signer))


class TestReleaseReservation:
    def test_returns_what_is_left_and_raises_the_epoch(self, world: World) -> None:
        payer, owner = world.payer(100), world.operator()
        node, signer = world.node(owner), world.signer(payer, cap=80)
        old = world.reserve_call(payer, node, 30, signer=signer)
        world.send(node, old)
        assert world.collect(node, world.item(payer, node, 12, signer=signer)).paid == 12
        arguments = (signer.address, node.address)
        with world.reverts("EscrowNotReleased"):
            world.send(payer, world.escrow.functions.withdrawReservation(*arguments))
        world.send(payer, world.escrow.functions.releaseReservation(*arguments))
        with world.reverts("EscrowStillReleasing"):
            world.send(payer, world.escrow.functions.withdrawReservation(*arguments))
        world.jump(3 * DAY)
        world.send(payer, world.escrow.functions.withdrawReservation(*arguments))
        assert world.account(payer) == (88, 0, 0, 0)
        assert world.escrow.functions.signer(payer.address, signer.address).call()[1] == 12
        assert world.escrow.functions.reservation(payer.address, *arguments).call() == [0, 0, 1, 0]
        with world.reverts("EscrowReservationEpoch", 1, 0):
            world.send(node, old)
