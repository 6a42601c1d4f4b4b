"""However a case goes, the court keeps nothing, no stake stays locked, and no money is made or lost."""

from __future__ import annotations

from random import Random

import pytest

from tests.contracts.court.cases import DECIDED, DRAWING, VOTING, Case, locked, open_case
from tests.contracts.court.ledger import DAY
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, SALT, World, operators

LIVES = range(6)


def vote_somehow(case: Case, round_: int, chance: Random) -> None:
    """Jurors vote as they like; some do not commit, some do not reveal."""
    world = case.world
    court = world.ledger.court.functions
    leaning = chance.choice([MATCH, MISMATCH, INCONCLUSIVE])
    votes = {
        juror: leaning if chance.random() < 0.8 else chance.choice([MATCH, MISMATCH, INCONCLUSIVE])
        for juror in case.jurors(round_)
        if chance.random() < 0.9
    }
    seats = {juror: seat for seat, juror in enumerate(case.jurors(round_))}
    for juror, verdict in votes.items():
        hashed = world.vote_hash(case.id, round_, juror, verdict)
        world.ledger.send(court.commitVote(case.id, round_, seats[juror], hashed), juror)
    if len(votes) == len(seats):
        world.ledger.send(court.closeCommits(case.id), world.outsider)
    else:
        world.ledger.jump(DAY + 1)
    for juror, verdict in votes.items():
        if chance.random() < 0.9:
            world.ledger.send(court.revealVote(case.id, round_, seats[juror], verdict, 0, SALT), juror)
    world.ledger.jump(2 * DAY + 1)


def live(case: Case, chance: Random) -> None:
    """Move a case on until it is executed."""
    world = case.world
    court = world.ledger.court.functions
    appellants = [world.friend.address, world.cheat, world.challenger]
    while True:
        status, round_ = case.record[1], case.record[2]
        if status == DRAWING:
            case.draw()
        elif status == VOTING:
            vote_somehow(case, round_, chance)
            world.ledger.send(court.advance(case.id), world.outsider)
        elif status == DECIDED and case.record[12] > world.ledger.now() and chance.random() < 0.5:
            world.ledger.send(court.appeal(case.id), chance.choice(appellants))
        else:
            case.execute()
            return


@pytest.mark.parametrize("seed", LIVES)
def test_sums_add_up(world: World, seed: int) -> None:
    chance = Random(seed)
    operators(world, 5)
    cases = [open_case(world, jobs=2) for _ in range(2)]
    for case in cases:
        live(case, chance)
    people = {*world.owners, *world.verifiers, world.friend.address, world.outsider}
    owed = sum(world.ledger.court.functions.credit(person).call() for person in people)
    assert world.ledger.balance(world.ledger.court.address) == owed
    assert all(locked(world, owner) == 0 for owner in world.owners)
    world.supply()
