"""Larger juries, silent juries, appeals."""

from __future__ import annotations

import pytest

from tests.contracts.court.cases import BOND, DRAWING, FEE, SEVERITY, TIP, Case, locked, open_case, stake_of
from tests.contracts.court.ledger import COURT, DAY, MILLION
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, SALT, STAKE, World, operators

DUTY = COURT["duty"]


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
        assert case.credit(world.challenger) == BOND + 2 * TIP
        assert sum(case.credit(owner) for owner in world.owners) == FEE
        world.supply()

    def test_stands_when_no_larger_jury_can_be_seated(self, world: World, case: Case) -> None:
        case.draw()
        case.vote_all(INCONCLUSIVE)
        assert case.decide() == INCONCLUSIVE
        assert case.draw() == []
        assert case.draw() == []
        assert case.execute()["verdict"] == INCONCLUSIVE
        assert case.credit(world.challenger) == BOND + 2 * TIP

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
        # Its place takes another of the same size: nobody else is left, so the same sit again.
        assert (case.status, case.record[6]) == (DRAWING, True)
        world.ledger.mine(6)
        world.ledger.send(advance, world.outsider)
        assert sorted(case.jurors(1)) == sorted(jurors)
        world.ledger.jump(DAY + 1)
        world.ledger.send(advance, world.outsider)
        # Then a larger one is wanted, and nobody is left to sit in it.
        world.ledger.mine(6)
        world.ledger.send(advance, world.outsider)
        event = case.execute()
        assert event["verdict"] == INCONCLUSIVE
        assert [stake_of(world, juror) for juror in jurors] == [STAKE - 2 * DUTY] * 3
        assert case.credit(world.challenger) == FEE + BOND + TIP
        assert case.credit(world.outsider) == 6 * TIP
        assert all(locked(world, owner) == 0 for owner in world.owners)
        world.supply()

    def test_one_that_commits_and_does_not_reveal_pays(self, world: World, case: Case) -> None:
        jurors = case.draw()
        court = world.ledger.court.functions
        world.ledger.send(court.commitVote(case.id, 0, 0, SALT), jurors[0])
        for seat in (1, 2):
            hashed = world.vote_hash(case.id, 0, jurors[seat], MISMATCH)
            world.ledger.send(court.commitVote(case.id, 0, seat, hashed), jurors[seat])
        world.ledger.send(court.closeCommits(case.id), world.outsider)
        for seat in (1, 2):
            world.ledger.send(court.revealVote(case.id, 0, seat, MISMATCH, 0, SALT), jurors[seat])
        world.ledger.reverts("CourtVotesPending", court.decide(case.id), world.outsider)
        world.ledger.jump(2 * DAY + 1)
        assert case.decide() == MISMATCH
        case.execute()
        assert [stake_of(world, juror) for juror in jurors] == [STAKE - DUTY, STAKE, STAKE]
        assert [case.reward(juror) for juror in jurors] == [0, 10 * MILLION, 10 * MILLION]


class TestPenalties:
    def test_a_vote_against_the_verdict_costs_a_quarter_of_a_duty(self, world: World, case: Case) -> None:
        jurors = case.draw()
        world.vote(case.id, 0, {jurors[0]: MISMATCH, jurors[1]: MISMATCH, jurors[2]: MATCH})
        case.decide()
        assert [locked(world, juror) for juror in jurors] == [DUTY] * 3
        case.execute()
        assert [stake_of(world, juror) for juror in jurors] == [STAKE, STAKE, STAKE - DUTY // 4]
        assert [locked(world, juror) for juror in jurors] == [0] * 3

    def test_the_last_verdict_decides_who_was_right(self, world: World) -> None:
        operators(world, 12)
        case = open_case(world)
        first = case.draw()
        case.vote_all(MATCH)
        case.decide()
        world.ledger.send(world.ledger.court.functions.appeal(case.id), world.friend.address)
        case.draw()
        case.vote_all(MISMATCH, 1)
        case.decide()
        case.execute()
        assert [stake_of(world, juror) for juror in first] == [STAKE - DUTY // 4] * 3

    def test_an_inconclusive_vote_costs_nothing_until_it_is_a_habit(self, world: World) -> None:
        for owner in world.owners:
            # A juror whose stake falls below the least would not be drawn again.
            world.ledger.send(world.ledger.staking.functions.stake(1, STAKE), owner)
        idle, idle_votes = world.owners[3], world.ledger.court.functions.idleVotes
        for habit, cost in ((1, 0), (2, 0), (3, DUTY // 4), (4, DUTY // 4)):
            before = stake_of(world, idle)
            case = open_case(world)
            case.draw()
            world.vote(case.id, 0, {j: INCONCLUSIVE if j == idle else MATCH for j in case.jurors()})
            case.decide()
            case.execute()
            assert before - stake_of(world, idle) == cost
            assert idle_votes(idle).call() == habit
        open_case(world).judged(INCONCLUSIVE, rounds=1)
        assert idle_votes(idle).call() == 4
        open_case(world).judged(MATCH)
        assert idle_votes(idle).call() == 0


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
        assert case.credit(world.challenger) == FEE + BOND + 4 * TIP
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
        assert case.credit(world.challenger) == FEE + BOND + BOND + 4 * TIP
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
        drawn = case.draw()
        assert sorted(drawn) == sorted({*world.owners} - {world.cheat, appellant})
        # Those that sat before come last: only where there are not enough others.
        assert not set(drawn[:3]) & set(case.jurors(0))

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

    def test_an_inconclusive_appeal_turns_nothing_and_returns_its_bond(self, world: World) -> None:
        case = self._decided(world, MISMATCH)
        court = world.ledger.court.functions
        world.ledger.send(court.appeal(case.id), world.cheat)
        case.draw()
        case.vote_all(INCONCLUSIVE, 1)
        # The jury is enlarged as any other; the verdict stands meanwhile and after it.
        assert case.decide() == MISMATCH
        assert len(case.draw()) > 7
        case.vote_all(INCONCLUSIVE, 2)
        assert case.decide() == MISMATCH
        assert case.execute()["slashed"] == SEVERITY
        assert court.appealOf(case.id, 1).call() == (world.cheat, MISMATCH, INCONCLUSIVE)
        assert case.credit(world.cheat) == 2 * BOND
        world.supply()

    @pytest.mark.parametrize(
        ("acquit", "convict", "idle", "verdict"),
        [
            (4, 3, 0, INCONCLUSIVE),
            (4, 0, 3, INCONCLUSIVE),
            (3, 4, 0, MISMATCH),
            (3, 0, 4, MISMATCH),
            (0, 0, 7, MISMATCH),
        ],
    )
    def test_a_slash_falls_that_half_of_a_larger_jury_speaks_against(
        self, world: World, acquit: int, convict: int, idle: int, verdict: int
    ) -> None:
        """R-63: an appealed mismatch is inconclusive once half of a jury votes match; idle votes turn nothing."""
        case = self._decided(world, MISMATCH)
        court = world.ledger.court.functions
        world.ledger.send(court.appeal(case.id), world.cheat)
        votes = [MATCH] * acquit + [MISMATCH] * convict + [INCONCLUSIVE] * idle
        world.vote(case.id, 1, dict(zip(case.draw(), votes, strict=True)))
        assert case.decide() == verdict
        # Jurors who can't judge turn nothing in the enlarged round.
        case.draw()
        case.vote_all(INCONCLUSIVE, 2)
        assert case.decide() == verdict
        found = case.execute()
        assert found["slashed"] == (SEVERITY if verdict == MISMATCH else 0)
        # The appeal's fee goes to those who sat, its bond returns; the challenger's bond returns too.
        assert case.credit(world.cheat) == 2 * BOND
        world.supply()

    def test_silence_saves_nobody_on_appeal(self, world: World) -> None:
        case = self._decided(world, MISMATCH)
        world.ledger.send(world.ledger.court.functions.appeal(case.id), world.cheat)
        jury = case.draw()
        world.vote(case.id, 1, dict.fromkeys(jury[:3], MATCH))
        world.ledger.jump(DAY + 1)
        assert (len(jury), case.decide()) == (7, MISMATCH)
        world.supply()

    def test_the_accuser_may_appeal_a_slash_that_fell(self, world: World) -> None:
        case = self._decided(world, MISMATCH)
        court = world.ledger.court.functions
        world.ledger.send(court.appeal(case.id), world.cheat)
        world.vote(case.id, 1, dict(zip(case.draw(), [MATCH] * 4 + [MISMATCH] * 3, strict=True)))
        assert case.decide() == INCONCLUSIVE
        case.draw()
        case.vote_all(INCONCLUSIVE, 2)
        case.decide()
        world.ledger.send(court.appeal(case.id), world.friend.address)
        if case.draw():
            case.vote_all(MISMATCH, 3)
            assert case.decide() == MISMATCH
            assert case.execute()["slashed"] == SEVERITY
        world.supply()

    def test_stands_and_returns_the_money_when_no_jury_can_be_seated(self, world: World, case: Case) -> None:
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        world.ledger.send(world.ledger.court.functions.appeal(case.id), world.cheat)
        assert case.draw() == []
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
