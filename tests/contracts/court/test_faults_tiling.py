"""Faults of the tree under a commit: leaves, gaps, overlaps, order (R-15, R-20)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from retally.protocol import merkle
from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import MILLION, OPERATOR
from tests.contracts.court.proofs import Claimant, Kind
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import STAKE, Commit, World

SEVERITY = STAKE * 300_000 // MILLION


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


def forged(world: World, jobs: list[Job], upto: int | None = None) -> Commit:
    """A commit over these jobs in just this order."""
    total = upto if upto is not None else max(job.receipt.cum_to for job in jobs)
    return world.collect(Tree(world.ledger.domain, tuple(jobs)), upto=total)


def moved(job: Job, amount: int) -> Job:
    """The same receipt further along the money line."""
    return job.changed(cum_from=job.receipt.cum_from + amount, cum_to=job.receipt.cum_to + amount)


class TestTiling:
    def _punished(self, world: World, claimant: Claimant, commit: Commit, places: list[int], range_: int = 0) -> None:
        punished = claimant.proves(claimant.tiling(commit, range_, places))
        assert (punished.kind, punished.slashed) == (Kind.TILING, SEVERITY)
        claimant.reverts("FaultsAlreadyProven", claimant.tiling(commit, range_, places))
        world.supply()

    def test_a_gap(self, world: World, claimant: Claimant) -> None:
        first, second, third = world.jobs(3)
        commit = forged(world, [first, moved(second, 1), moved(third, 1)])
        self._punished(world, claimant, commit, [0, 1])

    def test_an_overlap(self, world: World, claimant: Claimant) -> None:
        first, second, third = world.jobs(3)
        self._punished(world, claimant, forged(world, [first, moved(second, -1), moved(third, -1)]), [0, 1])

    def test_a_duplicate(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        self._punished(world, claimant, forged(world, [first, first, second]), [0, 1])

    def test_a_wrong_order(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        self._punished(world, claimant, forged(world, [second, first]), [0, 1])

    def test_channels_out_of_order(self, world: World, claimant: Claimant) -> None:
        jobs = sorted([world.job(), world.job(payer=world.friend)], key=lambda job: job.leaf.order, reverse=True)
        self._punished(world, claimant, forged(world, jobs, upto=500), [0, 1])

    def test_a_gap_before_the_first_leaf(self, world: World, claimant: Claimant) -> None:
        self._punished(world, claimant, forged(world, [moved(world.job(), 1)]), [0])

    def test_a_gap_after_the_last_leaf(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        self._punished(world, claimant, forged(world, [first, second], upto=second.receipt.cum_to + 1), [1])

    def test_a_gap_at_the_edge_of_another_channel(self, world: World, claimant: Claimant) -> None:
        pair = sorted([world.job(), world.job(payer=world.friend)], key=lambda job: job.leaf.order)
        payer_first = pair[0].receipt.payer == world.payer.address
        jobs = pair if payer_first else [pair[0], moved(pair[1], 7)]
        upto = jobs[0].receipt.cum_to + 1 if payer_first else None
        self._punished(world, claimant, forged(world, jobs, upto=upto), [0, 1])

    def test_a_channel_without_leaves(self, world: World, claimant: Claimant) -> None:
        strange = world.job(payer=world.friend)
        own = world.job()
        commit = forged(world, [strange], upto=100)
        places = [0]
        assert strange.leaf.order != own.leaf.order
        self._punished(world, claimant, commit, places)

    def test_a_channel_missing_between_two(self, world: World, claimant: Claimant) -> None:
        lanes = sorted((world.job(lane=lane) for lane in range(40)), key=lambda job: job.leaf.order)
        place = next(i for i, job in enumerate(lanes) if job.receipt.lane == 0)
        others = [job for job in lanes if job.receipt.lane != 0]
        commit = forged(world, others, upto=100)
        places = [place - 1, place] if 0 < place < len(others) else [0 if place == 0 else len(others) - 1]
        self._punished(world, claimant, commit, places)

    def test_an_empty_tree(self, world: World, claimant: Claimant) -> None:
        commit = forged(world, [], upto=100)
        assert commit.tree.root == merkle.root([])
        self._punished(world, claimant, commit, [])

    def test_counts_once_with_bad_leaves(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        commit = forged(world, [first, first.changed(cum_to=first.receipt.cum_from), second])
        claimant.proves(claimant.tiling(commit, 0, [0, 1]))
        claimant.reverts("FaultsAlreadyProven", claimant.improper_leaf(commit, 1))


class TestLeaf:
    def test_that_is_unsigned(self, world: World, claimant: Claimant) -> None:
        job = world.job()
        for data in (job.digest + bytes(64), job.digest, job.digest + world.nodes[1].sign(job.digest)):
            with world.ledger.reverted():
                leaves = [merkle.leaf(job.leaf.data(job.domain)), merkle.leaf(data)]
                commit = _commit_root(world, leaves, job)
                punished = claimant.proves(claimant.unsigned_leaf(commit, data, 1, leaves))
                assert (punished.kind, punished.slashed) == (Kind.LEAF, SEVERITY)

    def test_reverts_when_it_is_signed_or_elsewhere(self, world: World, claimant: Claimant) -> None:
        commit = world.committed(3)
        job = commit.tree.jobs[1]
        data = job.leaf.data(job.domain)
        call = claimant.unsigned_leaf(commit, data, 1, commit.tree.leaves)
        assert claimant.reverts("FaultsLeafSigned", call) == (job.digest,)
        leaves = [merkle.leaf(data), merkle.leaf(b"x")]
        claimant.reverts("FaultsNotUnderRoot", claimant.unsigned_leaf(commit, b"x", 1, leaves))

    def test_of_another_node_or_without_money(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        foreign = replace(second, node=world.nodes[1]).changed(node=world.nodes[1].address)
        for bad in (foreign, second.changed(cum_to=second.receipt.cum_from)):
            with world.ledger.reverted():
                commit = forged(world, [first, bad])
                punished = claimant.proves(claimant.improper_leaf(commit, 1))
                assert (punished.kind, punished.slashed) == (Kind.LEAF, SEVERITY)

    @pytest.mark.parametrize("field", ["model_id", "profile_id"])
    def test_of_a_pair_that_its_owner_never_declared(self, world: World, claimant: Claimant, field: str) -> None:
        first, second = world.jobs(2)
        commit = forged(world, [first, second.changed(**{field: keccak(b"nobody's")})])
        claimant.reverts("FaultsLeafProper", claimant.improper_leaf(commit, 0))
        punished = claimant.proves(claimant.improper_leaf(commit, 1))
        assert (punished.kind, punished.slashed) == (Kind.LEAF, SEVERITY)

    def test_reverts_for_a_proper_one(self, world: World, claimant: Claimant) -> None:
        commit = world.committed(2)
        digest = commit.tree.jobs[0].digest
        assert claimant.reverts("FaultsLeafProper", claimant.improper_leaf(commit, 0)) == (digest,)


class TestProofs:
    def test_revert_for_another_commit_ranges_or_leaf(self, world: World, claimant: Claimant) -> None:
        commit = world.committed(3)
        other = replace(commit, record=replace(commit.record, step=1))
        claimant.reverts("FaultsUnknownCommit", claimant.tiling(other, 0, [0, 1]))
        claimant.reverts("FaultsUnknownCommit", claimant.improper_leaf(other, 0))
        claimant.reverts("FaultsUnknownCommit", claimant.unsigned_leaf(other, b"x", 0, [keccak(b"x")]))
        claimant.reverts("FaultsWrongRanges", claimant.tiling(replace(commit, packed=bytes(68)), 0, [0, 1]))
        claimant.reverts("RangeOutOfBounds", claimant.tiling(commit, 5, [0, 1]))
        stranger = replace(commit, tree=Tree.of(world.jobs(3)))
        claimant.reverts("FaultsNotUnderRoot", claimant.tiling(stranger, 0, [0, 1]))
        claimant.reverts("FaultsNotUnderRoot", claimant.improper_leaf(stranger, 0))
        empty = replace(commit, tree=Tree(world.ledger.domain, ()))
        claimant.reverts("FaultsNotUnderRoot", claimant.tiling(empty, 0, []))

    @pytest.mark.parametrize("places", [[], [1], [0, 2], [1, 0], [0, 1, 2]])
    def test_revert_for_leaves_that_are_no_neighbours(
        self, world: World, claimant: Claimant, places: list[int]
    ) -> None:
        commit = world.committed(3)
        claimant.reverts("FaultsNotNeighbours", claimant.tiling(commit, 0, places))


class TestHonest:
    """No proof ever succeeds against an honest transcript."""

    def test_trees_of_several_payers_and_commits(self, world: World, claimant: Claimant) -> None:
        first = world.jobs(4)
        friends = world.jobs(3, payer=world.friend)
        middle = first[2].receipt.cum_from + 1
        # The third receipt straddles two commits and stands under both.
        commits = [
            world.collect(Tree.of([*first[:3], *friends]), upto=min(middle, friends[-1].receipt.cum_to)),
            world.collect(Tree.of(first[1:]), upto=first[3].receipt.cum_to),
        ]
        for commit in commits:
            amount = len(commit.tree.jobs)
            neighbours = [[0], [amount - 1], *map(list, pairwise(range(amount)))]
            for range_index in range(len(commit.packed) // 68):
                for places in neighbours:
                    claimant.reverts("FaultsTilingCorrect", claimant.tiling(commit, range_index, places))
            for index, job in enumerate(commit.tree.jobs):
                claimant.reverts("FaultsLeafProper", claimant.improper_leaf(commit, index))
                data = job.leaf.data(job.domain)
                claimant.reverts("FaultsLeafSigned", claimant.unsigned_leaf(commit, data, index, commit.tree.leaves))
        assert world.ledger.staking.functions.slashable(world.cheat, OPERATOR).call() == STAKE

    def test_segments_and_choices_of_one_job(self, world: World, claimant: Claimant) -> None:
        whole = world.job(output_tokens=64)
        rest = world.job(output_from=64, output_tokens=64, cum_from=whole.receipt.cum_to)
        rest = replace(rest, request=whole.request).changed(job_id=whole.receipt.job_id, seed=whole.receipt.seed)
        second = whole.changed(choice=1, cum_to=64 * 6)
        for a in (whole, rest, second):
            for b in (whole, rest, second):
                claimant.reverts("FaultsNoContradiction", claimant.conflict(a, b))
        for job in (whole, rest):
            claimant.reverts("FaultsBillingCorrect", claimant.overbilling(job))
            claimant.reverts("FaultsNoDeviation", claimant.deviation(job))


def _commit_root(world: World, leaves: list[bytes], job: Job) -> Commit:
    """A commit of a root over any leaves."""

    class Forged(Tree):
        @property
        def leaves(self) -> list[bytes]:  # type: ignore[override] # forged leaves are plain bytes
            return leaves

    return world.collect(Forged(world.ledger.domain, (job,)))
