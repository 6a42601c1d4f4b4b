"""What a case costs those who open and judge it, by the receipts."""

from __future__ import annotations

from tests.contracts.court.cases import open_case, opening
from tests.contracts.court.world import MISMATCH, SALT, World

OPEN_CEILING = 190_000
COMMIT_CEILING = 52_000
REVEAL_CEILING = 35_000


def test_opening_and_voting_stay_below_their_ceilings(world: World) -> None:
    ledger, court = world.ledger, world.ledger.court.functions
    open_case(world, shown=1)  # from now on the court holds money and has counted a case
    case = open_case(world, shown=1, challenger=world.verifiers[1])
    # The first case of an owner in an epoch: its locks are all fresh.
    fresh = opening(world, case.shown, owner=world.owners[3])
    # As the verifier does: an allowance of just this.
    cost = court.openingCost().call()
    ledger.send(ledger.asset.functions.approve(ledger.court.address, cost), world.challenger)
    gas = ledger.send(fresh, world.challenger).gas
    assert gas <= OPEN_CEILING, gas
    case.draw()
    for seat, juror in enumerate(case.jurors()):
        call = court.commitVote(case.id, 0, seat, world.vote_hash(case.id, 0, juror, MISMATCH, -1))
        gas = ledger.send(call, juror).gas
        assert gas <= COMMIT_CEILING, gas
    # Begun early, the reveal phase costs one slot more than by its time.
    ledger.send(court.closeCommits(case.id), world.outsider)
    for seat, juror in enumerate(case.jurors()):
        gas = ledger.send(court.revealVote(case.id, 0, seat, MISMATCH, -1, SALT), juror).gas
        assert gas <= REVEAL_CEILING - 500, gas
