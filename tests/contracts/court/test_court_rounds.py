"""Larger juries, silent juries, appeals."""

from __future__ import annotations

import pytest

from tests.contracts.court.cases import BOND, DRAWING, FEE, SEVERITY, TIP, Case, locked, open_case, stake_of
from tests.contracts.court.ledger import DAY
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, SALT, STAKE, World, operators


@pytest.fixture
def case(world: World) -> Case:
    """A case just opened."""
    return open_case(world)


class TestInconclusive:
    def test_enlarges_the_jury_once(self, world: World) -> None:
        operators(world, 5)
        case = open_case(world)
        jurors = case.draw()
        world.vote(case.id, 0, {jurors[0]: MISMATCH, jurors[1]: MATCH, jurors[2]: INCONCLUSIVE})
        assert case.decide() == INCONCLUSIVE
        assert case.status == DRAWING
        assert len(case.draw()) == 7
        case.vote_all(INCONCLUSIVE, 1)
        assert case.decide() == INCONCLUSIVE
        event = case.execute()
        assert event["slashed"] == 0
        assert case.credit(world.challenger) == BOND
        assert sum(case.credit(owner) for owner in world.owners) == FEE
        world.supply()

    def test_stands_when_no_larger_jury_can_be_seated(self, world: World, case: Case) -> None:
        case.draw()
        case.vote_all(INCONCLUSIVE)
        assert case.decide() == INCONCLUSIVE
        assert case.draw() == []
        assert case.execute()["verdict"] == INCONCLUSIVE
        assert case.credit(world.challenger) == BOND + TIP

    def test_a_larger_jury_can_convict(self, world: World) -> None:
        operators(world, 5)
        case = open_case(world)
        case.draw()
        case.vote_all(INCONCLUSIVE)
        case.decide()
        case.draw()
        case.vote_all(MISMATCH, 1)
        assert case.decide() == MISMATCH
        assert case.execute()["slashed"] == SEVERITY
        assert all(locked(world, owner) == 0 for owner in world.owners)


class TestSilentJury:
    def test_ends_and_costs_the_jurors(self, world: World, case: Case) -> None:
        jurors = case.draw()
        world.ledger.reverts("CourtVotesPending", world.ledger.court.functions.decide(case.id), world.outsider)
        world.ledger.jump(DAY + 1)
        advance = world.ledger.court.functions.advance(case.id)
        world.ledger.send(advance, world.outsider)
        assert [stake_of(world, juror) for juror in jurors] == [STAKE * 99 // 100] * 3
        world.ledger.mine(6)
        world.ledger.send(advance, world.outsider)
        event = case.execute()
        assert event["verdict"] == INCONCLUSIVE
        assert case.credit(world.challenger) == FEE + BOND + TIP
        assert case.credit(world.outsider) == 4 * TIP
        assert all(locked(world, owner) == 0 for owner in world.owners)
        world.supply()

    def test_one_that_commits_and_does_not_reveal_pays(self, world: World, case: Case) -> None:
        jurors = case.draw()
        court = world.ledger.court.functions
        world.ledger.send(court.commitVote(case.id, SALT), jurors[0])
        for juror in jurors[1:]:
            world.ledger.send(court.commitVote(case.id, world.vote_hash(case.id, 0, juror, MISMATCH)), juror)
        for juror in jurors[1:]:
            world.ledger.send(court.revealVote(case.id, MISMATCH, 0, SALT), juror)
        world.ledger.reverts("CourtVotesPending", court.decide(case.id), world.outsider)
        world.ledger.jump(2 * DAY + 1)
        assert case.decide() == MISMATCH
        assert [stake_of(world, juror) for juror in jurors] == [STAKE * 99 // 100, STAKE, STAKE]


class TestAppeal:
    def _decided(self, world: World, verdict: int) -> Case:
        operators(world, 12)
        case = open_case(world)
        case.draw()
        case.vote_all(verdict)
        case.decide()
        return case

    def test_a_right_appellant_turns_the_verdict(self, world: World) -> None:
        case = self._decided(world, MATCH)
        court = world.ledger.court.functions
        cost = court.appealCost(case.id).call()
        assert cost == 2 * (FEE + BOND) + 2 * TIP
        world.ledger.send(court.appeal(case.id), world.friend.address)
        assert len(case.draw()) == 7
        case.vote_all(MISMATCH, 1)
        assert case.decide() == MISMATCH
        event = case.execute()
        assert event["slashed"] == SEVERITY
        assert case.credit(world.friend.address) == 2 * (FEE + BOND)
        assert case.credit(world.challenger) == FEE + BOND + 2 * TIP
        world.supply()

    def test_a_wrong_appellant_pays_jurors_and_challenger(self, world: World) -> None:
        case = self._decided(world, MISMATCH)
        court = world.ledger.court.functions
        world.ledger.send(court.appeal(case.id), world.cheat)
        case.draw()
        case.vote_all(MISMATCH, 1)
        case.decide()
        case.execute()
        assert case.credit(world.cheat) == 0
        assert case.credit(world.challenger) == FEE + BOND + BOND + 2 * TIP
        paid = sum(case.credit(owner) for owner in world.owners)
        assert 2 * FEE - 10 < paid <= 2 * FEE
        world.supply()

    def test_an_appellant_does_not_sit(self, world: World) -> None:
        operators(world, 4)
        case = open_case(world)
        case.draw()
        case.vote_all(MATCH)
        case.decide()
        court, appellant = world.ledger.court.functions, world.owners[1]
        world.ledger.send(court.appeal(case.id), appellant)
        # Of eight owners the accused and the appellant are parties: six are left for seven seats.
        assert sorted(case.draw()) == sorted({*world.owners} - {world.cheat, appellant})

    def test_twice_at_most_and_doubling(self, world: World) -> None:
        case = self._decided(world, MATCH)
        court = world.ledger.court.functions
        for round_, size in ((1, 7), (2, 15)):
            world.ledger.send(court.appeal(case.id), world.friend.address)
            assert len(case.draw()) == size
            case.vote_all(MATCH, round_)
            case.decide()
        world.ledger.reverts("CourtAppealEnded", court.appeal(case.id), world.friend.address)
        world.ledger.send(court.execute(case.id, case.shown), world.outsider)
        assert case.credit(world.friend.address) == 0
        world.supply()

    def test_stands_and_returns_the_money_when_no_jury_can_be_seated(self, world: World, case: Case) -> None:
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        world.ledger.send(world.ledger.court.functions.appeal(case.id), world.cheat)
        assert case.draw() == []
        assert case.execute()["slashed"] == SEVERITY
        assert case.credit(world.cheat) == 2 * (FEE + BOND)
        world.supply()

    def test_reverts_too_late_or_too_early(self, world: World, case: Case) -> None:
        court = world.ledger.court.functions
        world.ledger.reverts("CourtWrongStatus", court.appeal(case.id), world.cheat)
        case.draw()
        case.vote_all(MATCH)
        case.decide()
        world.ledger.reverts("CourtAppealOpen", court.execute(case.id, case.shown), world.outsider)
        world.ledger.jump(2 * DAY + 1)
        world.ledger.reverts("CourtAppealEnded", court.appeal(case.id), world.cheat)
