"""Stories of stakes: nobody runs, hides behind a revoked key, or sits in judgement of its sibling."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from retally.protocol.encoding import keccak
from tests.contracts.court.cases import SEVERITY, open_case, opening
from tests.contracts.court.challenges import SLASHED, challenge
from tests.contracts.court.ledger import DAY, GOVERNOR, OPERATOR
from tests.contracts.court.proofs import Claimant, Kind
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import MISMATCH, STAKE, World, operators

# Its place in the table of severities.
OVERBILLING = 3


def stake_of(world: World, owner: str) -> int:
    """What an operator can lose."""
    return int(world.ledger.staking.functions.slashable(owner, OPERATOR).call())


def revoke(world: World) -> None:
    """The cheat ends its node."""
    world.ledger.send(world.ledger.registry.functions.revokeNode(world.cheat_node.address), world.cheat)


class TestThawUnderAudit:
    def test_a_node_that_thaws_while_under_audit_still_gets_slashed(self, world: World) -> None:
        commit = world.committed(6)
        staking = world.ledger.staking.functions
        world.ledger.send(staking.thaw(OPERATOR, STAKE), world.cheat)
        # The last day of the evidence, then the whole time for an answer.
        world.ledger.jump(7 * DAY - 60)
        opened = challenge(world, commit)
        world.ledger.reverts("StakingStillThawing", staking.withdraw(OPERATOR), world.cheat)
        world.ledger.jump(DAY + 1)
        world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
        assert opened.status == SLASHED
        # It costs what it costs who does not thaw, and only the rest leaves.
        assert stake_of(world, world.cheat) == STAKE - SEVERITY
        world.ledger.jump(21 * DAY)
        before = world.ledger.balance(world.cheat)
        world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
        assert world.ledger.balance(world.cheat) - before == STAKE - SEVERITY
        assert stake_of(world, world.cheat) == 0

    def test_stake_that_had_thawed_before_makes_silence_no_cheaper(self, world: World) -> None:
        staking = world.ledger.staking.functions
        world.ledger.send(staking.thaw(OPERATOR, STAKE), world.cheat)
        world.ledger.jump(21 * DAY)
        late = world.committed(6)
        opened = challenge(world, late)
        locked = staking.lockedOf(world.cheat, OPERATOR).call()
        world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
        assert stake_of(world, world.cheat) == locked > 0
        world.ledger.jump(DAY + 1)
        slashed = world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
        assert slashed.event("SilenceSlashed")["slashed"] == locked


class TestRevokedKey:
    """A key revoked after collecting shields nothing (R-45): each offence costs what it costs of a living key."""

    def _costs_the_same(self, world: World, offence: Callable[[], None]) -> int:
        costs = []
        for revoked in (False, True):
            with world.ledger.reverted():
                if revoked:
                    revoke(world)
                offence()
                costs.append(STAKE - stake_of(world, world.cheat))
        assert costs[0] == costs[1] > 0
        return costs[0]

    def test_of_silence(self, world: World) -> None:
        commit = world.committed(6)

        def stay_silent() -> None:
            opened = challenge(world, commit)
            world.ledger.jump(DAY + 1)
            world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
            assert opened.status == SLASHED

        assert self._costs_the_same(world, stay_silent) == SEVERITY

    def test_of_a_broken_tree(self, world: World) -> None:
        first, second = world.jobs(2)
        gap = second.changed(cum_from=second.receipt.cum_from + 1, cum_to=second.receipt.cum_to + 1)
        commit = world.collect(Tree(world.ledger.domain, (first, gap)), upto=gap.receipt.cum_to)
        claimant = Claimant(world)

        def prove() -> None:
            assert claimant.proves(claimant.tiling(commit, 0, [0, 1])).kind == Kind.TILING

        assert self._costs_the_same(world, prove) == SEVERITY

    def test_of_a_bill_under_a_commit(self, world: World) -> None:
        job = world.job()
        dear = job.changed(cum_to=job.receipt.cum_to + 1)
        commit = world.collect(Tree.of([dear]))
        claimant = Claimant(world)

        def prove() -> None:
            world.ledger.send(claimant.bind(commit, 0), world.outsider)
            assert claimant.proves(claimant.overbilling(dear, bound=True)).kind == Kind.OVERBILLING

        # The severity, and the whole fee back to the payer.
        severity = world.ledger.staking.functions.severityOf(world.cheat, OPERATOR, OVERBILLING).call()
        assert self._costs_the_same(world, prove) == severity + dear.receipt.fee

    def test_of_a_case(self, world: World) -> None:
        case = open_case(world)

        def convict() -> None:
            case.draw()
            case.vote_all(MISMATCH)
            assert case.decide() == MISMATCH
            case.execute()

        fees = sum(entry[3] for entry in case.shown)
        assert self._costs_the_same(world, convict) == SEVERITY + fees


class TestSiblings:
    @pytest.mark.parametrize("declared", [False, True])
    def test_dropping_a_sibling_seats_nobody_on_its_jury(self, world: World, declared: bool) -> None:
        sibling = world.owners[1]
        registry = world.ledger.registry.functions
        if declared:
            for one, other in ((world.cheat, sibling), (sibling, world.cheat)):
                world.ledger.send(registry.declareSibling(other, True), one)
        operators(world, 6)
        case = open_case(world)
        world.ledger.send(registry.declareSibling(sibling, False), world.cheat)
        assert registry.areSiblings(world.cheat, sibling).call() == declared
        if declared:
            assert sibling not in case.draw()


class TestPause:
    def test_a_paused_court_opens_no_case_and_ends_those_that_are_open(self, world: World) -> None:
        case = open_case(world)
        court, staking = world.ledger.court.functions, world.ledger.staking.functions
        guardian = court.guardian().call()
        for contract in (court, staking):
            world.ledger.send(contract.pause(world.ledger.now() + 13 * DAY), guardian)
        again = opening(world, case.shown)
        world.ledger.reverts("PauseInForce", again, world.challenger)
        world.ledger.reverts("PauseInForce", opening(world, case.shown[:1], own_job=True), world.payer.address)
        case.draw()
        case.vote_all(MISMATCH)
        assert case.decide() == MISMATCH
        assert case.execute()["slashed"] > 0
        assert court.isPaused().call()
        for credited in (world.challenger, world.payer.address):
            before = world.ledger.balance(credited)
            owed = staking.credit(credited).call()
            assert owed > 0
            world.ledger.send(staking.withdrawCredit(), credited)
            assert world.ledger.balance(credited) == before + owed
        world.ledger.send(court.withdrawCredit(), world.challenger)
        world.ledger.jump(13 * DAY)
        world.ledger.send(again, world.challenger)


class TestRemovedCourt:
    def test_opens_no_case_that_would_free_what_others_locked(self, world: World) -> None:
        staking, court = world.ledger.staking.functions, world.ledger.court
        world.ledger.send(staking.removeSlasher(court.address), GOVERNOR)
        opening_call = opening(world, [(1, keccak(b"job"), world.payer.address, 1)])
        (refused,) = world.ledger.reverts("StakingNotSlasher", opening_call, world.challenger)
        assert refused.lower() == court.address.lower()
        assert court.functions.pendingDraws().call() == 0

    @pytest.mark.parametrize("seated", [False, True])
    def test_its_case_ends_takes_nothing_and_frees_what_it_locked(self, world: World, seated: bool) -> None:
        case = open_case(world)
        staking, court = world.ledger.staking.functions, world.ledger.court
        if seated:
            case.draw()
        world.ledger.send(staking.removeSlasher(court.address), GOVERNOR)
        if not seated:
            case.draw()
        case.vote_all(MISMATCH)
        assert case.decide() == MISMATCH
        assert case.execute()["slashed"] == 0
        for owner in world.owners:
            assert stake_of(world, owner) == STAKE
            assert staking.lockedOf(owner, OPERATOR).call() == 0
        world.ledger.send(court.functions.withdrawCredit(), world.challenger)
