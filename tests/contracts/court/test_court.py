"""Opening a case, drawing its jury, voting."""

from __future__ import annotations

import pytest
from eth_abi.abi import decode, encode

from retally.protocol.encoding import keccak
from tests.contracts.court.cases import (
    BOND,
    DECIDED,
    DRAWING,
    FEE,
    SEVERITY,
    SHOWN,
    TIP,
    VOTING,
    Case,
    locked,
    open_case,
    opening,
)
from tests.contracts.court.ledger import DAY, GOVERNOR, OPERATOR
from tests.contracts.court.transcripts import MODEL, PROFILE
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, SALT, STAKE, World, operators


@pytest.fixture
def case(world: World) -> Case:
    """A case just opened."""
    return open_case(world)


class TestOpen:
    def test_announces_what_jurors_need(self, world: World) -> None:
        commit = world.committed(2)
        job = commit.tree.jobs[0]
        entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee)]
        call = opening(world, entries)
        event = world.ledger.send(call, world.challenger).event("CaseOpened")
        (shown,) = decode([SHOWN], event["shown"])
        assert [tuple(entry) for entry in shown] == [
            (commit.record.id, job.digest, job.receipt.payer.lower(), job.receipt.fee)
        ]
        assert world.ledger.pools.functions.pairOf(event["pool"]).call() == [MODEL, PROFILE]
        record = world.ledger.court.functions.caseOf(event["caseId"]).call()
        assert record[-1] == keccak(encode([SHOWN], [entries]))

    def test_pulls_fee_bond_and_tips(self, world: World) -> None:
        before = world.ledger.balance(world.challenger)
        case = open_case(world)
        cost = world.ledger.court.functions.openingCost().call()
        assert cost == FEE + BOND + 7 * TIP
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
        call = opening(world, [entry] * count)
        assert world.ledger.reverts("CourtShownCount", call, world.challenger) == (count, 32)

    def test_reverts_without_stake(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = opening(world, [entry], owner=world.outsider)
        world.ledger.reverts("CourtNothingAtStake", call, world.challenger)

    def test_reverts_against_oneself(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = opening(world, [entry])
        world.ledger.reverts("CourtSelfCase", call, world.cheat)

    def test_reverts_without_a_pool(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 1)
        call = world.ledger.court.functions.open((world.cheat, 0, [entry], SALT, ""))
        world.ledger.reverts("CourtNoPool", call, world.challenger)

    def test_reverts_while_paused(self, world: World) -> None:
        ledger = world.ledger
        ledger.send(ledger.court.functions.pause(ledger.now() + DAY), GOVERNOR)
        entry = (1, keccak(b"x"), world.payer.address, 1)
        ledger.reverts("PauseInForce", opening(world, [entry]), world.challenger)
        ledger.reverts("PauseInForce", opening(world, [entry], own_job=True), world.payer.address)

    def test_an_invented_fee_locks_no_more_than_the_severity_again(self, world: World) -> None:
        entry = (1, keccak(b"x"), world.payer.address, 2**95)
        call = opening(world, [entry] * 32)
        world.ledger.send(call, world.challenger)
        # The greatest power of two that the severity holds.
        assert locked(world, world.cheat) == SEVERITY + 2**28 < 2 * SEVERITY


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
        world.ledger.reverts("CourtSeedNotReady", call, world.outsider)

    def test_a_seed_that_nobody_used_in_time_rolls_on(self, world: World, case: Case) -> None:
        window = world.ledger.randomness.functions.window().call()
        world.ledger.mine(window + 10)
        # The appointed block is forgotten, and its successor is still readable: anybody may draw, for the same tip.
        assert sorted(case.draw()) == sorted(world.owners[1:])
        assert case.credit(world.outsider) == TIP

    def test_too_few_candidates_end_inconclusive_and_return_the_bond(self, world: World) -> None:
        ledger = world.ledger
        ledger.send(ledger.staking.functions.thaw(OPERATOR, STAKE), world.owners[1])
        case = open_case(world)
        assert case.draw() == []
        assert case.status == DRAWING
        # A later block draws once more.
        assert case.draw() == []
        assert case.status == DECIDED
        event = case.execute()
        assert (event["verdict"], event["slashed"]) == (INCONCLUSIVE, 0)
        assert case.credit(world.challenger) == BOND + 4 * TIP
        assert case.credit(world.cheat) == FEE
        assert locked(world, world.cheat) == 0
        world.supply()

    def test_reverts_when_not_due(self, world: World, case: Case) -> None:
        case.draw()
        operands = world.ledger.reverts("CourtWrongStatus", world.ledger.court.functions.draw(case.id), world.outsider)
        assert operands == (case.id, DRAWING, VOTING)


class TestVote:
    def _seat(self, world: World, case: Case, juror: str) -> tuple[int, int, int]:
        return case.id, 0, case.jurors().index(juror)

    def test_a_node_votes_for_its_owner(self, world: World, case: Case) -> None:
        case.draw()
        court, owner, node = world.ledger.court.functions, world.owners[1], world.nodes[1].address
        seat = self._seat(world, case, owner)
        world.ledger.send(court.commitVote(*seat, world.vote_hash(case.id, 0, owner, MATCH)), node)
        world.ledger.jump(DAY)
        mined = world.ledger.send(court.revealVote(*seat, MATCH, 0, SALT), node)
        assert mined.event("VoteRevealed")["juror"] == owner
        assert court.voteOf(*seat).call() == (bytes(32), MATCH)
        assert court.roundOf(case.id, 0).call()[:3] == (3, 1, 1)

    def test_reverts_for_strangers_and_empty_seats(self, world: World, case: Case) -> None:
        case.draw()
        commit = world.ledger.court.functions.commitVote
        world.ledger.reverts("CourtNotJuror", commit(case.id, 0, 0, SALT), world.outsider)
        world.ledger.reverts("CourtNotJuror", commit(case.id, 0, 0, SALT), world.cheat)
        world.ledger.reverts("CourtNotJuror", commit(case.id, 0, 3, SALT), world.outsider)
        world.ledger.reverts("CourtNotJuror", commit(case.id, 1, 0, SALT), case.jurors()[0])

    def test_reverts_for_a_second_or_empty_commitment(self, world: World, case: Case) -> None:
        case.draw()
        juror = case.jurors()[0]
        commit = world.ledger.court.functions.commitVote
        world.ledger.reverts("CourtAlreadyCommitted", commit(case.id, 0, 0, bytes(32)), juror)
        world.ledger.send(commit(case.id, 0, 0, SALT), juror)
        world.ledger.reverts("CourtAlreadyCommitted", commit(case.id, 0, 0, SALT), juror)

    def test_reverts_after_the_commit_phase(self, world: World, case: Case) -> None:
        case.draw()
        world.ledger.jump(DAY + 1)
        call = world.ledger.court.functions.commitVote(case.id, 0, 0, SALT)
        world.ledger.reverts("CourtCommitEnded", call, case.jurors()[0])

    def test_reveal_reverts_before_all_committed(self, world: World, case: Case) -> None:
        case.draw()
        juror = case.jurors()[0]
        court = world.ledger.court.functions
        world.ledger.send(court.commitVote(case.id, 0, 0, world.vote_hash(case.id, 0, juror, MATCH)), juror)
        reveal = court.revealVote(case.id, 0, 0, MATCH, 0, SALT)
        world.ledger.reverts("CourtNotRevealPhase", reveal, juror)
        world.ledger.reverts("CourtVotesPending", court.closeCommits(case.id), world.outsider)
        world.ledger.jump(2 * DAY + 1)
        world.ledger.reverts("CourtNotRevealPhase", reveal, juror)

    def test_the_reveal_phase_begins_early_when_all_have_committed(self, world: World, case: Case) -> None:
        case.draw()
        case.vote_all(MATCH)
        court = world.ledger.court.functions
        world.ledger.reverts("CourtCommitsClosed", court.closeCommits(case.id), world.outsider)
        assert case.decide() == MATCH

    def test_a_copied_commitment_cannot_be_revealed(self, world: World, case: Case) -> None:
        case.draw()
        court, jurors = world.ledger.court.functions, case.jurors()
        copied = world.vote_hash(case.id, 0, jurors[0], MATCH)
        for seat, juror in enumerate(jurors):
            world.ledger.send(court.commitVote(case.id, 0, seat, copied), juror)
        world.ledger.send(court.closeCommits(case.id), world.outsider)
        world.ledger.send(court.revealVote(case.id, 0, 0, MATCH, 0, SALT), jurors[0])
        world.ledger.reverts("CourtRevealMismatch", court.revealVote(case.id, 0, 1, MATCH, 0, SALT), jurors[1])

    def test_reveal_reverts_for_another_vote_twice_or_no_verdict(self, world: World, case: Case) -> None:
        case.draw()
        court, juror = world.ledger.court.functions, case.jurors()[0]
        for seat, member in enumerate(case.jurors()):
            hashed = world.vote_hash(case.id, 0, member, MATCH)
            world.ledger.send(court.commitVote(case.id, 0, seat, hashed), member)
        world.ledger.send(court.advance(case.id), world.outsider)
        world.ledger.reverts("CourtRevealMismatch", court.revealVote(case.id, 0, 0, MISMATCH, 0, SALT), juror)
        world.ledger.reverts("CourtInvalidVerdict", court.revealVote(case.id, 0, 0, 4, 0, SALT), juror)
        world.ledger.reverts("CourtInvalidVerdict", court.revealVote(case.id, 0, 0, 0, 0, SALT), juror)
        world.ledger.send(court.revealVote(case.id, 0, 0, MATCH, 0, SALT), juror)
        world.ledger.reverts("CourtAlreadyRevealed", court.revealVote(case.id, 0, 0, MATCH, 0, SALT), juror)
        # The commit phase was closed early: whoever has revealed can't commit again.
        world.ledger.reverts("CourtAlreadyCommitted", court.commitVote(case.id, 0, 0, SALT), juror)
