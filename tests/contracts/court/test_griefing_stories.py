"""Stories of challengers who accuse whoever did nothing: they pay, and the accused ends no poorer."""

from __future__ import annotations

from tests.contracts.court.cases import BOND, DECIDED, FEE, SEVERITY, TIP, Case, locked, opening
from tests.contracts.court.challenges import BOND as SILENCE_BOND
from tests.contracts.court.challenges import FEE as ANSWER_FEE
from tests.contracts.court.challenges import FEE_PER_KILOBYTE, challenge, packed_ids, packed_output
from tests.contracts.court.ledger import DAY, OPERATOR
from tests.contracts.court.wealth import burned, wealth
from tests.contracts.court.world import INCONCLUSIVE, MATCH, STAKE, Commit, World, operators


def accused_of(world: World, commit: Commit, fee: int | None = None) -> Case:
    """A case against an honest commit, of true fees or invented ones."""
    jobs = list(commit.tree.jobs[:2])
    entries = [
        (commit.record.id, job.digest, job.receipt.payer, job.receipt.fee if fee is None else fee) for job in jobs
    ]
    mined = world.ledger.send(opening(world, entries), world.challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], jobs, entries)


class TestCase:
    """A griefing challenger pays."""

    def test_against_an_honest_node_it_loses_fee_bond_and_tips(self, world: World) -> None:
        commit = world.committed(4)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        ashes = burned(world)
        case = accused_of(world, commit)
        assert case.judged(MATCH)["slashed"] == 0
        assert wealth(world, world.challenger) - griefer == -(FEE + BOND + 3 * TIP)
        assert wealth(world, world.cheat) - accused == BOND // 2
        assert burned(world) - ashes == BOND - BOND // 2
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert locked(world, world.cheat) == 0
        world.supply()

    def test_appealing_to_the_end_it_loses_the_more(self, world: World) -> None:
        operators(world, 12)
        commit = world.committed(4)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        case = accused_of(world, commit)
        court = world.ledger.court.functions
        case.draw()
        case.vote_all(MATCH)
        assert case.decide() == MATCH
        for round_ in (1, 2):
            world.ledger.send(court.appeal(case.id), world.challenger)
            case.draw()
            case.vote_all(MATCH, round_)
            assert case.decide() == MATCH
        case.execute()
        # Fee and bond, twice and four times as much; tips for three juries and the end.
        lost = 7 * (FEE + BOND) + 7 * TIP
        assert wealth(world, world.challenger) - griefer == -lost
        assert wealth(world, world.cheat) - accused == 7 * BOND // 2
        world.supply()

    def test_with_invented_fees_it_locks_little_and_for_a_while(self, world: World) -> None:
        commit = world.committed(4)
        accused = wealth(world, world.cheat)
        case = accused_of(world, commit, fee=2**90)
        assert locked(world, world.cheat) == SEVERITY + 2**28 < 2 * SEVERITY < STAKE
        case.judged(MATCH)
        assert locked(world, world.cheat) == 0
        assert wealth(world, world.cheat) - accused == BOND // 2

    def test_that_nobody_can_judge_it_pays_the_jury_and_costs_the_accused_nothing(self, world: World) -> None:
        commit = world.committed(4)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        accused_of(world, commit).judged(INCONCLUSIVE, rounds=1)
        assert wealth(world, world.challenger) - griefer == -(FEE + 5 * TIP)
        assert wealth(world, world.cheat) == accused


class TestSilentJury:
    """A silent jury ends: on anybody's call, for tips, and at the jurors' cost alone."""

    def test_costs_challenger_and_accused_nothing_but_tips(self, world: World) -> None:
        commit = world.committed(4)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        case, court = accused_of(world, commit), world.ledger.court.functions
        caller, ashes = wealth(world, world.outsider), burned(world)
        calls = 0
        while case.status != DECIDED:
            # Beyond every time-out: of a draw's block, of votes, of reveals.
            world.ledger.mine(6)
            world.ledger.jump(3 * DAY)
            world.ledger.send(court.advance(case.id), world.outsider)
            calls += 1
        assert case.execute()["slashed"] == 0
        duty = court.parameters().call()[9]
        assert wealth(world, world.outsider) - caller == (calls + 1) * TIP
        assert wealth(world, world.challenger) - griefer == -(calls + 1) * TIP
        assert wealth(world, world.cheat) == accused
        # Three jurors, drawn twice, silent twice.
        assert burned(world) - ashes == 6 * duty
        assert sum(STAKE - world.ledger.staking.functions.slashable(who, OPERATOR).call() for who in world.owners) == (
            6 * duty
        )
        world.supply()


class TestChallenge:
    def test_of_a_point_that_was_served_pays_the_answers_gas(self, world: World) -> None:
        commit = world.committed(6)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        opened = challenge(world, commit)
        job = opened.job
        parts = [opened.head(), packed_ids(job.prompt_ids), packed_output(job)]
        for part in parts:
            opened.answer(part)
        owed = ANSWER_FEE + -(-sum(map(len, parts)) // 1_024) * FEE_PER_KILOBYTE
        assert owed < SILENCE_BOND
        assert wealth(world, world.challenger) - griefer == -owed
        assert wealth(world, world.cheat) - accused == owed
        assert locked(world, world.cheat) == 0
        world.ledger.reverts(
            "SilenceAlreadyChallenged",
            world.ledger.silence.functions.challenge(
                commit.abi, commit.packed, opened.point.range_index, opened.point.k
            ),
            world.challenger,
        )
