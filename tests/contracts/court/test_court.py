"""The life of a case, its money, and every way in which it can end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from eth_abi.abi import decode, encode

from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import COURT, DAY, MILLION, OPERATOR
from tests.contracts.court.transcripts import Job
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, SALT, STAKE, World, operators

FEE, BOND, TIP = COURT["fee"], COURT["bond"], COURT["tip"]
SEVERITY = STAKE * 300_000 // MILLION
SHOWN = "(uint64,bytes32,address,uint96)[]"
DRAWING, VOTING, DECIDED, CLOSED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Case:
    """A case under way."""

    world: World
    id: int
    jobs: list[Job]
    shown: list[tuple[Any, ...]]

    @property
    def record(self) -> tuple[Any, ...]:
        """What the court stores: owner, status, round, appeals, enlarged, verdict, …"""
        return tuple(self.world.ledger.court.functions.caseOf(self.id).call())

    @property
    def status(self) -> int:
        """Where it stands."""
        return int(self.record[1])

    def jurors(self, round_: int = 0) -> list[str]:
        """Who sits."""
        return list(self.world.ledger.court.functions.jurorsOf(self.id, round_).call())

    def draw(self) -> list[str]:
        """Draw the round's jury."""
        self.world.ledger.mine(6)
        mined = self.world.ledger.send(self.world.ledger.court.functions.draw(self.id), self.world.outsider)
        drawn = [args["jurors"] for name, args in mined.events if name == "JurorsDrawn"]
        return list(drawn[0]) if drawn else []

    def decide(self) -> int:
        """End the round and return its verdict."""
        mined = self.world.ledger.send(self.world.ledger.court.functions.decide(self.id), self.world.outsider)
        return int(mined.event("CaseDecided")["verdict"])

    def vote_all(self, verdict: int, round_: int = 0) -> None:
        """Everybody votes the same."""
        self.world.vote(self.id, round_, dict.fromkeys(self.jurors(round_), verdict))

    def execute(self) -> Any:
        """Let the appeal window pass and execute."""
        self.world.ledger.jump(2 * DAY + 1)
        call = self.world.ledger.court.functions.execute(self.id, self.shown)
        return self.world.ledger.send(call, self.world.outsider).event("CaseExecuted")

    def judged(self, verdict: int) -> Any:
        """The whole life up to its execution, with a unanimous jury."""
        self.draw()
        self.vote_all(verdict)
        assert self.decide() == verdict
        return self.execute()

    def credit(self, account: str) -> int:
        """What an account may withdraw from the court."""
        return int(self.world.ledger.court.functions.credit(account).call())

    def reward(self, account: str) -> int:
        """What an account may withdraw from the stakes' contract."""
        return int(self.world.ledger.staking.functions.credit(account).call())


def open_case(world: World, jobs: int = 4, shown: int = 2, challenger: str | None = None) -> Case:
    """A case that shows some of the jobs of a commit."""
    commit = world.committed(jobs)
    made = list(commit.tree.jobs)[:shown]
    entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee) for job in made]
    call = world.ledger.court.functions.open(world.cheat, entries, keccak(b"evidence"), "http://evidence")
    mined = world.ledger.send(call, challenger or world.challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], made, entries)


@pytest.fixture
def case(world: World) -> Case:
    """A case just opened."""
    return open_case(world)


def stake_of(world: World, owner: str) -> int:
    """Slashable stake of an operator."""
    return int(world.ledger.staking.functions.slashable(owner, OPERATOR).call())


def locked(world: World, owner: str) -> int:
    """What is kept from leaving."""
    return int(world.ledger.staking.functions.lockedOf(owner, OPERATOR).call())


class TestOpen:
    def test_announces_what_jurors_need(self, world: World) -> None:
        commit = world.committed(2)
        job = commit.tree.jobs[0]
        entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee)]
        call = world.ledger.court.functions.open(world.cheat, entries, keccak(b"e"), "http://e")
        event = world.ledger.send(call, world.challenger).event("CaseOpened")
        (shown,) = decode([SHOWN], event["shown"])
        assert [tuple(entry) for entry in shown] == [
            (commit.record.id, job.digest, job.receipt.payer.lower(), job.receipt.fee)
        ]
        assert event["shownHash"] == keccak(encode([SHOWN], [entries]))

    def test_pulls_fee_bond_and_tips(self, world: World) -> None:
        before = world.ledger.balance(world.challenger)
        case = open_case(world)
        cost = world.ledger.court.functions.openingCost().call()
        assert cost == FEE + BOND + 5 * TIP
        assert before - world.ledger.balance(world.challenger) == cost
        assert world.ledger.court.functions.caseCount().call() == case.id

    def test_locks_the_severity_once_and_fees_on_top(self, world: World, case: Case) -> None:
        fees = sum(entry[3] for entry in case.shown)
        assert locked(world, world.cheat) == SEVERITY + fees
        open_case(world)
        assert locked(world, world.cheat) == SEVERITY + 2 * fees

    @pytest.mark.parametrize("count", [0, 33])
    def test_reverts_for_too_few_or_many(self, world: World, count: int) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = world.ledger.court.functions.open(world.cheat, [entry] * count, SALT, "")
        assert world.ledger.fails(call, world.challenger, "CourtShownCount") == (count, 32)

    def test_reverts_without_stake(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = world.ledger.court.functions.open(world.outsider, [entry], SALT, "")
        world.ledger.fails(call, world.challenger, "CourtNothingAtStake")

    def test_reverts_against_oneself(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = world.ledger.court.functions.open(world.cheat, [entry], SALT, "")
        world.ledger.fails(call, world.cheat, "CourtSelfCase")
        world.ledger.fails(call, world.cheat_node.address, "CourtSelfCase")

    def test_an_invented_fee_locks_no_more_than_the_severity_again(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 2**95)
        call = world.ledger.court.functions.open(world.cheat, [entry] * 32, SALT, "")
        world.ledger.send(call, world.challenger)
        assert locked(world, world.cheat) == 2 * SEVERITY


class TestDraw:
    def test_seats_operators_that_are_no_party(self, world: World, case: Case) -> None:
        drawn = case.draw()
        assert sorted(drawn) == sorted(world.owners[1:])
        assert all(locked(world, juror) > 0 for juror in drawn)
        assert case.status == VOTING

    def test_excludes_the_challengers_owner_and_siblings(self, world: World) -> None:
        registry = world.ledger.registry.functions
        extra = operators(world, 4)
        challenger_node = world.nodes[1].address
        world.ledger.send(world.ledger.asset.functions.faucet(challenger_node, 10**9), challenger_node)
        approve = world.ledger.asset.functions.approve(world.ledger.court.address, 10**9)
        world.ledger.send(approve, challenger_node)
        world.ledger.send(registry.declareSibling(extra[0], True), world.cheat)
        world.ledger.send(registry.declareSibling(world.cheat, True), extra[0])
        for _ in range(4):
            case = open_case(world, challenger=challenger_node)
            assert not {world.cheat, world.owners[1], extra[0]} & set(case.draw())

    def test_reverts_before_its_block(self, world: World, case: Case) -> None:
        call = world.ledger.court.functions.draw(case.id)
        world.ledger.fails(call, world.outsider, "CourtSeedNotReady")

    def test_a_juror_bonded_after_the_opening_does_not_sit(self, world: World, case: Case) -> None:
        late = operators(world, 1)
        assert late[0] not in case.draw()

    def test_too_few_candidates_end_inconclusive_and_return_the_bond(self, world: World) -> None:
        ledger = world.ledger
        ledger.send(ledger.staking.functions.thaw(OPERATOR, STAKE), world.owners[1])
        case = open_case(world)
        assert case.draw() == []
        assert case.status == DECIDED
        event = case.execute()
        assert (event["verdict"], event["slashed"]) == (INCONCLUSIVE, 0)
        assert case.credit(world.challenger) == FEE + BOND + 3 * TIP
        assert locked(world, world.cheat) == 0
        world.supply()

    def test_reverts_when_not_due(self, world: World, case: Case) -> None:
        case.draw()
        operands = world.ledger.fails(world.ledger.court.functions.draw(case.id), world.outsider, "CourtWrongStatus")
        assert operands == (case.id, DRAWING, VOTING)


class TestVote:
    def test_a_node_votes_for_its_owner(self, world: World, case: Case) -> None:
        case.draw()
        court, owner, node = world.ledger.court.functions, world.owners[1], world.nodes[1].address
        world.ledger.send(court.commitVote(case.id, world.vote_hash(case.id, 0, owner, MATCH)), node)
        world.ledger.jump(DAY)
        mined = world.ledger.send(court.revealVote(case.id, MATCH, 0, SALT), node)
        assert mined.event("VoteRevealed")["juror"] == owner
        assert court.voteOf(case.id, 0, owner).call()[1] == MATCH
        assert court.roundOf(case.id, 0).call()[2] == 1

    def test_reverts_for_strangers(self, world: World, case: Case) -> None:
        case.draw()
        call = world.ledger.court.functions.commitVote(case.id, SALT)
        world.ledger.fails(call, world.outsider, "CourtNotJuror")
        world.ledger.fails(call, world.cheat, "CourtNotJuror")

    def test_reverts_for_a_second_or_empty_commitment(self, world: World, case: Case) -> None:
        case.draw()
        juror = case.jurors()[0]
        commit = world.ledger.court.functions.commitVote
        world.ledger.fails(commit(case.id, bytes(32)), juror, "CourtAlreadyCommitted")
        world.ledger.send(commit(case.id, SALT), juror)
        world.ledger.fails(commit(case.id, SALT), juror, "CourtAlreadyCommitted")

    def test_reverts_after_the_commit_phase(self, world: World, case: Case) -> None:
        case.draw()
        world.ledger.jump(DAY + 1)
        call = world.ledger.court.functions.commitVote(case.id, SALT)
        world.ledger.fails(call, case.jurors()[0], "CourtCommitEnded")

    def test_reveal_reverts_before_all_committed(self, world: World, case: Case) -> None:
        case.draw()
        juror = case.jurors()[0]
        court = world.ledger.court.functions
        world.ledger.send(court.commitVote(case.id, world.vote_hash(case.id, 0, juror, MATCH)), juror)
        world.ledger.fails(court.revealVote(case.id, MATCH, 0, SALT), juror, "CourtNotRevealPhase")
        world.ledger.jump(2 * DAY + 1)
        world.ledger.fails(court.revealVote(case.id, MATCH, 0, SALT), juror, "CourtNotRevealPhase")

    def test_reveal_reverts_for_another_vote_twice_or_no_verdict(self, world: World, case: Case) -> None:
        case.draw()
        court = world.ledger.court.functions
        for juror in case.jurors():
            world.ledger.send(court.commitVote(case.id, world.vote_hash(case.id, 0, juror, MATCH)), juror)
        juror = case.jurors()[0]
        world.ledger.fails(court.revealVote(case.id, MISMATCH, 0, SALT), juror, "CourtRevealMismatch")
        world.ledger.fails(court.revealVote(case.id, 4, 0, SALT), juror, "CourtInvalidVerdict")
        world.ledger.fails(court.revealVote(case.id, 0, 0, SALT), juror, "CourtInvalidVerdict")
        world.ledger.send(court.revealVote(case.id, MATCH, 0, SALT), juror)
        world.ledger.fails(court.revealVote(case.id, MATCH, 0, SALT), juror, "CourtAlreadyRevealed")


class TestMismatch:
    def test_pays_payers_on_top_of_the_severity(self, world: World, case: Case) -> None:
        before = world.supply()
        event = case.judged(MISMATCH)
        fees = sum(entry[3] for entry in case.shown)
        assert (event["slashed"], event["refunded"]) == (SEVERITY, fees)
        assert case.reward(world.payer.address) == fees
        challenger = SEVERITY // 5
        jurors = [case.reward(juror) for juror in case.jurors()]
        assert case.reward(world.challenger) == challenger
        assert jurors == [10 * MILLION] * 3
        assert event["rewards"] == challenger + sum(jurors)
        assert event["burned"] == SEVERITY - event["rewards"] >= SEVERITY // 2
        assert stake_of(world, world.cheat) == STAKE - SEVERITY - fees
        after = world.supply()
        burn = next(holder for holder in after if holder.endswith("dEaD"))
        assert after[burn] - before[burn] == event["burned"]

    def test_returns_fee_bond_and_unspent_tips(self, world: World, case: Case) -> None:
        case.judged(MISMATCH)
        assert case.credit(world.challenger) == FEE + BOND + 2 * TIP
        assert case.credit(world.outsider) == 3 * TIP
        before = world.ledger.balance(world.challenger)
        court = world.ledger.court.functions
        world.ledger.send(court.withdrawCredit(), world.challenger)
        assert world.ledger.balance(world.challenger) - before == FEE + BOND + 2 * TIP
        world.ledger.fails(court.withdrawCredit(), world.challenger, "CourtNoCredit")
        world.ledger.send(court.withdrawCredit(), world.outsider)
        assert world.ledger.balance(world.ledger.court.address) == 0

    def test_frees_the_locks_and_warns(self, world: World, case: Case) -> None:
        case.judged(MISMATCH)
        assert all(locked(world, owner) == 0 for owner in world.owners)
        assert world.ledger.registry.functions.warnedUntil(world.cheat).call() > world.ledger.now()
        assert case.status == CLOSED
        assert world.ledger.court.functions.wasSlashed(world.cheat, case.record[8]).call()

    def test_two_thirds_decide_and_the_third_is_not_paid(self, world: World, case: Case) -> None:
        jurors = case.draw()
        world.vote(case.id, 0, {jurors[0]: MISMATCH, jurors[1]: MISMATCH, jurors[2]: MATCH})
        assert case.decide() == MISMATCH
        case.execute()
        assert [case.reward(juror) for juror in jurors] == [10 * MILLION, 10 * MILLION, 0]

    def test_slashes_a_node_that_thaws(self, world: World, case: Case) -> None:
        staking = world.ledger.staking.functions
        world.ledger.send(staking.thaw(OPERATOR, STAKE), world.cheat)
        world.ledger.jump(21 * DAY + 1)
        world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
        fees = sum(entry[3] for entry in case.shown)
        assert stake_of(world, world.cheat) == SEVERITY + fees
        event = case.judged(MISMATCH)
        assert event["slashed"] > 0
        assert event["refunded"] == fees

    def test_slashes_once_an_epoch_but_refunds_all(self, world: World) -> None:
        first, second = open_case(world), open_case(world)
        first.judged(MISMATCH)
        stake = stake_of(world, world.cheat)
        event = second.judged(MISMATCH)
        fees = sum(entry[3] for entry in second.shown)
        assert (event["slashed"], event["refunded"], event["burned"]) == (0, fees, 0)
        assert stake_of(world, world.cheat) == stake - fees
        assert [second.credit(juror) for juror in second.jurors()] == [FEE // 3] * 3
        assert locked(world, world.cheat) == 0
        world.supply()

    def test_refunds_a_receipt_once_ever(self, world: World) -> None:
        first = open_case(world)
        call = world.ledger.court.functions.open(world.cheat, first.shown * 2, SALT, "")
        again = Case(world, world.ledger.send(call, world.challenger).event("CaseOpened")["caseId"], [], first.shown * 2)
        first.judged(MISMATCH)
        assert again.judged(MISMATCH)["refunded"] == 0
        assert first.reward(world.payer.address) == sum(entry[3] for entry in first.shown)

    def test_moves_held_credit_into_a_short_stake(self, world: World) -> None:
        ledger = world.ledger
        # More than the exposure cap at once: the rest is held.
        world.committed(250, output_tokens=500)
        held = ledger.escrow.functions.heldOf(world.cheat).call()
        entries = [(1, keccak(b"big"), world.payer.address, STAKE)]
        call = ledger.court.functions.open(world.cheat, entries, SALT, "")
        case = Case(world, ledger.send(call, world.challenger).event("CaseOpened")["caseId"], [], entries)
        event = case.judged(MISMATCH)
        assert event["slashed"] + event["refunded"] == STAKE + held
        assert ledger.escrow.functions.heldOf(world.cheat).call() == 0
        assert stake_of(world, world.cheat) == 0
        world.supply()


class TestMatch:
    def test_a_griefing_challenger_pays(self, world: World, case: Case) -> None:
        before = world.supply()
        event = case.judged(MATCH)
        assert (event["slashed"], event["refunded"]) == (0, 0)
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert case.credit(world.cheat) == BOND // 2
        assert case.credit(world.challenger) == 2 * TIP
        assert stake_of(world, world.cheat) == STAKE
        assert locked(world, world.cheat) == 0
        after = world.supply()
        burn = next(holder for holder in after if holder.endswith("dEaD"))
        assert after[burn] - before[burn] == BOND - BOND // 2 + FEE - FEE // 3 * 3

    def test_bars_no_other_case(self, world: World, case: Case) -> None:
        case.judged(MATCH)
        assert open_case(world).judged(MISMATCH)["slashed"] == SEVERITY


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
        world.ledger.fails(world.ledger.court.functions.decide(case.id), world.outsider, "CourtVotesPending")
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
        world.ledger.fails(court.decide(case.id), world.outsider, "CourtVotesPending")
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

    def test_twice_at_most_and_doubling(self, world: World) -> None:
        case = self._decided(world, MATCH)
        court = world.ledger.court.functions
        for round_, size in ((1, 7), (2, 15)):
            world.ledger.send(court.appeal(case.id), world.friend.address)
            assert len(case.draw()) == size
            case.vote_all(MATCH, round_)
            case.decide()
        world.ledger.fails(court.appeal(case.id), world.friend.address, "CourtAppealEnded")
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
        world.ledger.fails(court.appeal(case.id), world.cheat, "CourtWrongStatus")
        case.draw()
        case.vote_all(MATCH)
        case.decide()
        world.ledger.fails(court.execute(case.id, case.shown), world.outsider, "CourtAppealOpen")
        world.ledger.jump(2 * DAY + 1)
        world.ledger.fails(court.appeal(case.id), world.cheat, "CourtAppealEnded")


class TestExecute:
    def test_reverts_for_other_entries_and_twice(self, world: World, case: Case) -> None:
        court = world.ledger.court.functions
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        world.ledger.jump(2 * DAY + 1)
        world.ledger.fails(court.execute(case.id, case.shown[:1]), world.outsider, "CourtWrongShown")
        call = court.execute(case.id, case.shown)
        world.ledger.send(call, world.outsider)
        world.ledger.fails(call, world.outsider, "CourtWrongStatus")

    def test_a_jury_has_jurors(self, world: World) -> None:
        ledger = world.ledger
        chosen = (0, *ledger.court.functions.parameters().call()[1:])
        with pytest.raises(AssertionError, match="CourtEmptyJury"):
            ledger.construct("Court", *ledger.money, ledger.randomness.address, chosen)
