"""Late leaves, and what follows when a fault was proven."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retally.protocol.encoding import Bytes32
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR
from tests.contracts.court.proofs import Claimant, Kind, bound
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import STAKE, Commit, World, key

OTHER = Bytes32(b"\x33" * 32)


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


@pytest.fixture
def job(world: World) -> Job:
    """An honest job."""
    return world.job()


class TestLateLeaf:
    def _late(self, world: World, amount: int = 1) -> Commit:
        jobs = world.jobs(amount)
        world.ledger.jump(600 + 7 * DAY)
        return world.collect(Tree.of(jobs))

    def test_loses_its_fee_to_the_payer(self, world: World, claimant: Claimant) -> None:
        commit = self._late(world, 2)
        job = commit.tree.jobs[1]
        punished = claimant.proves(claimant.late_leaf(commit, 1))
        assert (punished.kind, punished.refunded) == (Kind.LATE_LEAF, job.receipt.fee)
        assert punished.slashed == job.receipt.fee // 10
        staking = world.ledger.staking.functions
        assert staking.credit(world.payer.address).call() == job.receipt.fee
        assert staking.credit(world.outsider).call() == punished.slashed * 200_000 // MILLION
        assert world.ledger.registry.functions.warnedUntil(world.cheat).call() == 0
        claimant.reverts("FaultsAlreadyProven", claimant.late_leaf(commit, 1))
        assert claimant.proves(claimant.late_leaf(commit, 0)).refunded > 0

    def test_loses_only_what_came_late(self, world: World, claimant: Claimant) -> None:
        (job,) = world.jobs(1)
        world.collect(Tree.of([job]), upto=job.receipt.cum_to - 100)
        world.ledger.jump(600 + 7 * DAY)
        commit = world.collect(Tree.of([job]))
        assert claimant.proves(claimant.late_leaf(commit, 0)).refunded == 100

    def test_of_a_straddling_receipt_each_commit_gives_back_its_part(self, world: World, claimant: Claimant) -> None:
        (job,) = world.jobs(1)
        world.ledger.jump(600 + 7 * DAY)
        first, second = world.collect(Tree.of([job]), upto=1), world.collect(Tree.of([job]))
        assert claimant.proves(claimant.late_leaf(first, 0)).refunded == 1
        # The one collected unit shields nothing.
        assert claimant.proves(claimant.late_leaf(second, 0)).refunded == job.receipt.fee - 1
        for commit in (first, second):
            claimant.reverts("FaultsAlreadyProven", claimant.late_leaf(commit, 0))
        assert world.ledger.staking.functions.credit(world.payer.address).call() == job.receipt.fee

    def test_each_item_of_one_channel_in_a_commit_gives_back_its_part(self, world: World, claimant: Claimant) -> None:
        (job,) = world.jobs(1)
        world.ledger.jump(600 + 7 * DAY)
        commit = world.collect_items(Tree.of([job]), [(world.payer, 1), (world.payer, job.receipt.fee)])
        refunds = [claimant.proves(claimant.late_leaf(commit, 0, place)).refunded for place in (0, 1)]
        assert refunds == [1, job.receipt.fee - 1]

    def test_reverts_in_time(self, world: World, claimant: Claimant) -> None:
        commit = world.committed(1)
        job = commit.tree.jobs[0]
        operands = claimant.reverts("FaultsLeafInTime", claimant.late_leaf(commit, 0))
        assert operands == (commit.record.time, job.request.deadline + 7 * DAY)

    def test_reverts_for_another_request_range_or_commit(self, world: World, claimant: Claimant) -> None:
        commit = self._late(world)
        claimant.reverts("FaultsNotReferenced", claimant.late_leaf(commit, 0, job=world.job()))
        claimant.reverts("RangeOutOfBounds", claimant.late_leaf(commit, 0, range_index=1))
        claimant.reverts("FaultsWrongRanges", claimant.late_leaf(replace(commit, packed=bytes(68)), 0))
        other = replace(commit, record=replace(commit.record, step=1))
        claimant.reverts("FaultsUnknownCommit", claimant.late_leaf(other, 0))

    def test_reverts_where_the_commit_collected_nothing_of_it(self, world: World, claimant: Claimant) -> None:
        own, friends = world.job(), world.job(payer=world.friend)
        world.ledger.jump(600 + 7 * DAY)
        tree = Tree.of([own, friends])
        commit = world.collect(tree)
        index = tree.jobs.index(friends)
        assert claimant.reverts("FaultsNothingCollected", claimant.late_leaf(commit, index)) == (friends.digest,)


class TestPunish:
    def test_reverts_for_what_was_not_proven(self, world: World, claimant: Claimant, job: Job) -> None:
        call = claimant.conflict(job, job.changed(output_root=OTHER))
        event = world.ledger.send(call, claimant.account).event("FaultProven")
        fault = tuple(event["fault"].values())
        functions = world.ledger.faults.functions
        for place, value in ((1, world.owners[1]), (3, world.friend.address), (7, 5)):
            forged = (*fault[:place], value, *fault[place + 1 :])
            claimant.reverts("FaultsNotProven", functions.punish(forged))
        assert not functions.isPunished(event["subject"]).call()
        world.ledger.send(functions.punish(fault), world.friend.address)
        assert claimant.reverts("FaultsNotProven", functions.punish(fault)) == (event["subject"],)

    def test_takes_what_is_held_where_the_stake_falls_short(self, world: World, claimant: Claimant) -> None:
        dear = world.job().changed(cum_to=990 * MILLION)
        bound(world, claimant, dear)
        held = world.ledger.escrow.functions.heldOf(world.cheat).call()
        assert held > 0
        punished = claimant.proves(claimant.overbilling(dear, bound=True))
        assert punished.refunded == 990 * MILLION
        assert world.ledger.escrow.functions.heldOf(world.cheat).call() < held

    def test_held_credit_counts_where_the_stake_has_left(self, world: World, claimant: Claimant) -> None:
        staking = world.ledger.staking.functions
        world.ledger.send(staking.thaw(OPERATOR, STAKE), world.cheat)
        world.ledger.jump(21 * DAY + 1)
        world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
        first, second = world.jobs(2)
        gap = second.changed(cum_from=second.receipt.cum_from + 1, cum_to=second.receipt.cum_to + 1)
        commit = world.collect(Tree(world.ledger.domain, (first, gap)), upto=gap.receipt.cum_to)
        held = world.ledger.escrow.functions.heldOf(world.cheat).call()
        assert held > 0
        assert claimant.proves(claimant.tiling(commit, 0, [0, 1])).slashed == -(-held * 300_000 // MILLION)

    def test_the_claimant_is_rewarded_whoever_calls(self, world: World, claimant: Claimant, job: Job) -> None:
        punished = claimant.proves(claimant.conflict(job, job.changed(output_root=OTHER)))
        staking = world.ledger.staking.functions
        assert staking.credit(claimant.account).call() == punished.slashed * 200_000 // MILLION
        assert staking.credit(key("friend").address).call() == 0
        assert staking.slashable(world.cheat, OPERATOR).call() == STAKE - punished.slashed


class TestGas:
    def test_of_proving_a_conflict(self, world: World, claimant: Claimant, job: Job) -> None:
        punished = claimant.proves(claimant.conflict(job, job.changed(output_root=OTHER)))
        print(f"proof of conflicting receipts: {punished.proof_gas} gas, its punishment {punished.punish_gas}")
        assert punished.proof_gas <= 85_000
