"""What verifiers are paid from: by slashers alone, as far as it reaches."""

from __future__ import annotations

from tests.contracts.test_slashers import by_timelock
from tests.contracts.world import FUNDS, World


class TestAuditPool:
    def test_pays_as_far_as_it_reaches(self, world: World) -> None:
        party, verifier = world.party(), world.party()
        world.send(party, world.escrow.functions.fundAuditPool(100))
        world.send(world.slasher, world.escrow.functions.payFromAuditPool(verifier.address, 60))
        world.send(world.slasher, world.escrow.functions.payFromAuditPool(verifier.address, 60))
        assert world.credit(verifier) == 100
        world.send(verifier, world.escrow.functions.withdrawCredit())
        assert world.balance(verifier) == FUNDS + 100

    def test_a_removed_slasher_pays_nothing(self, world: World) -> None:
        party, verifier = world.party(), world.party()
        world.send(party, world.escrow.functions.fundAuditPool(100))
        by_timelock(world, "removeSlasher", world.slasher)
        world.send(world.slasher, world.escrow.functions.payFromAuditPool(verifier.address, 60))
        assert (world.credit(verifier), world.escrow.functions.auditPool().call()) == (0, 100)

    def test_reverts_when_the_caller_is_no_slasher_or_gives_nothing(self, world: World) -> None:
        party = world.party()
        with world.reverts("EscrowNotSlasher"):
            world.send(party, world.escrow.functions.payFromAuditPool(party.address, 1))
        with world.reverts("EscrowZeroAmount"):
            world.send(party, world.escrow.functions.fundAuditPool(0))
