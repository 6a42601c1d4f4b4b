"""The same money billed twice, and leaves of a cheaper model than their commit's audit points are for (R-52, R-53)."""

from __future__ import annotations

import pytest

from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.voucher import NodeAuth
from tests.contracts.court.ledger import DAY, GOVERNOR, MILLION, OPERATOR
from tests.contracts.court.proofs import Claimant, Kind, bound
from tests.contracts.court.transcripts import MODEL, PROFILE, Job, Tree
from tests.contracts.court.world import STAKE, World, key

HOT = STAKE * 50_000 // MILLION
WHOLE = STAKE * 300_000 // MILLION
OTHER = Bytes32(b"\x33" * 32)
DEAR = keccak(b"a dear model")


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


@pytest.fixture
def job(world: World) -> Job:
    """What the payer was given."""
    return world.job()


def instead_of(world: World, job: Job) -> Job:
    """Another job's receipt for the same money."""
    other = world.job()
    return other.changed(cum_from=job.receipt.cum_from, cum_to=job.receipt.cum_to)


class TestDoubleMoney:
    def test_committing_another_receipt_than_the_payer_was_given_costs_wholly(
        self, world: World, claimant: Claimant, job: Job
    ) -> None:
        committed = instead_of(world, job)
        bound(world, claimant, committed)
        assert claimant.reverts("FaultsNotBound", claimant.double_money(job, committed, bound=True)) == (job.digest,)
        punished = claimant.proves(claimant.double_money(committed, job, bound=True))
        assert (punished.kind, punished.owner, punished.key) == (Kind.DOUBLE_MONEY, world.cheat, 0)
        assert punished.slashed == WHOLE
        claimant.reverts("FaultsAlreadyProven", claimant.double_money(committed, job, bound=True))
        world.supply()

    def test_revoking_the_key_or_a_false_date_voids_nothing(self, world: World, claimant: Claimant, job: Job) -> None:
        committed = instead_of(world, job)
        bound(world, claimant, committed)
        world.ledger.send(world.ledger.registry.functions.revokeNode(job.receipt.node), world.cheat)
        claimant.reverts("FaultsReceiptVoid", claimant.double_money(committed, job))
        for finished_at in (0, job.receipt.finished_at, 2**40 - 1):
            with world.ledger.reverted():
                dated = job.changed(finished_at=finished_at)
                assert claimant.proves(claimant.double_money(committed, dated, bound=True)).slashed == WHOLE

    def test_a_key_that_leaks_long_after_its_last_commit_costs_nothing(
        self, world: World, claimant: Claimant, job: Job
    ) -> None:
        committed = instead_of(world, job)
        commit = bound(world, claimant, committed)
        world.ledger.send(world.ledger.registry.functions.revokeNode(job.receipt.node), world.cheat)
        world.ledger.jump(28 * DAY)
        operands = claimant.reverts("FaultsCommitTooOld", claimant.double_money(committed, job, bound=True))
        assert operands == (committed.digest, commit.record.time + 28 * DAY)

    def test_the_last_commit_of_a_receipt_counts_in_whatever_order_they_are_shown(
        self, world: World, claimant: Claimant, job: Job
    ) -> None:
        committed = instead_of(world, job)
        tree, end = Tree.of([committed]), committed.receipt.cum_to
        earlier = world.collect(tree, upto=end - 1)
        world.ledger.jump(2 * DAY)
        later = world.collect(tree, upto=end)
        for commit in (later, earlier):
            world.ledger.send(claimant.bind(commit, 0), claimant.account)
        world.ledger.jump(27 * DAY)
        assert claimant.proves(claimant.double_money(committed, job, bound=True)).slashed == WHOLE

    def test_under_two_commits_it_outlives_key_and_receipts(self, world: World, claimant: Claimant, job: Job) -> None:
        straddling = instead_of(world, job).changed(cum_to=job.receipt.cum_to + 300)
        for each, upto in ((job, job.receipt.cum_to), (straddling, straddling.receipt.cum_to)):
            commit = world.collect(Tree.of([each]), upto=upto)
            world.ledger.send(claimant.bind(commit, 0), claimant.account)
        world.ledger.send(world.ledger.registry.functions.revokeNode(job.receipt.node), world.cheat)
        world.ledger.jump(40 * DAY)
        assert claimant.proves(claimant.double_money(job, straddling, bound=True)).slashed == WHOLE
        # Once, from whichever side.
        claimant.reverts("FaultsAlreadyProven", claimant.double_money(straddling, job, bound=True))

    def test_by_signatures_alone_it_costs_what_a_conflict_costs(
        self, world: World, claimant: Claimant, job: Job
    ) -> None:
        punished = claimant.proves(claimant.double_money(job, instead_of(world, job)))
        assert (punished.kind, punished.slashed) == (Kind.DOUBLE_MONEY, HOT)
        assert punished.key == int(job.receipt.node, 16)
        again = claimant.proves(claimant.double_money(job, instead_of(world, job)))
        third = claimant.proves(claimant.double_money(job, instead_of(world, job)))
        taken = world.ledger.faults.functions.takenBySignatures(job.receipt.node).call()
        assert taken == punished.slashed + again.slashed + third.slashed == 120 * MILLION

    def test_a_capped_proof_shields_nothing(self, world: World, claimant: Claimant, job: Job) -> None:
        committed = instead_of(world, job)
        bound(world, claimant, committed)
        assert claimant.proves(claimant.double_money(committed, job)).slashed == HOT
        assert claimant.proves(claimant.double_money(committed, job, bound=True)).slashed > HOT

    @pytest.mark.parametrize(
        "changes",
        [
            {"lane": 1},
            {"payer": key("friend").address},
            {"signer": key("friend").address},
            {"node": key("node 1").address},
            {"cum_from": 1_000_000, "cum_to": 1_000_001},
            {"cum_from": 100, "cum_to": 100},
        ],
    )
    def test_reverts_for_other_money(self, world: World, claimant: Claimant, job: Job, changes: dict[str, int]) -> None:
        other = instead_of(world, job).changed(**changes)
        for pair in ((job, other), (other, job)):
            claimant.reverts("FaultsNoContradiction", claimant.double_money(*pair))

    def test_reverts_for_neighbours_and_for_one_receipt_under_two_commits(
        self, world: World, claimant: Claimant
    ) -> None:
        first, second = world.jobs(2)
        claimant.reverts("FaultsNoContradiction", claimant.double_money(first, second))
        for upto in (first.receipt.cum_to - 1, first.receipt.cum_to):
            commit = world.collect(Tree.of([first]), upto=upto)
            world.ledger.send(claimant.bind(commit, 0), claimant.account)
        claimant.reverts("FaultsNoContradiction", claimant.double_money(first, first, bound=True))


class TestThinLeaf:
    """A node registered for a model with a large unit, to be audited thinly, that serves another."""

    def _registered(self, world: World) -> int:
        """A dear node of an owner; return its place."""
        ledger, owner, node = world.ledger, key("thin owner").address, key("thin node")
        ledger.send(ledger.registry.functions.addModel(DEAR, 2_000, "dear", ""), GOVERNOR)
        ledger.send(ledger.asset.functions.faucet(owner, 2 * STAKE), owner)
        ledger.send(ledger.asset.functions.approve(ledger.staking.address, 2**255), owner)
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        deadline = ledger.now() + 600
        signed = node.sign(NodeAuth(owner, node.address, deadline).digest(ledger.domain))
        registry = ledger.registry.functions
        call = registry.registerNode(node.address, DEAR, PROFILE, "", deadline, signed[:32], signed[32:])
        ledger.send(call, owner)
        world.owners.append(owner)
        world.nodes.append(node)
        return len(world.nodes) - 1

    def test_costs_what_a_broken_tree_costs(self, world: World, claimant: Claimant) -> None:
        place = self._registered(world)
        try:
            commit = world.collect(Tree.of(world.jobs(2, node=place)), node=place)
        finally:
            world.nodes.pop()
        assert commit.record.step == 5 * 2_000
        punished = claimant.proves(claimant.thin_leaf(commit, 0))
        assert (punished.kind, punished.owner, punished.slashed) == (Kind.LEAF, commit.record.owner, WHOLE)
        claimant.reverts("FaultsAlreadyProven", claimant.thin_leaf(commit, 1))

    def test_leaves_of_the_dear_model_are_proper(self, world: World, claimant: Claimant) -> None:
        place = self._registered(world)
        try:
            job = world.job(place).changed(model_id=DEAR)
            commit = world.collect(Tree.of([job]), node=place)
        finally:
            world.nodes.pop()
        assert claimant.reverts("FaultsStepFits", claimant.thin_leaf(commit, 0)) == (10_000, 10_000)

    def test_a_node_that_changed_to_a_dearer_model_shows_none(self, world: World, claimant: Claimant) -> None:
        ledger = world.ledger
        ledger.send(ledger.registry.functions.addModel(DEAR, 2_000, "dear", ""), GOVERNOR)
        before = world.job()
        ledger.send(ledger.registry.functions.updateNode(world.cheat_node.address, "", DEAR, PROFILE), world.cheat)
        after = world.job(cum_from=before.receipt.cum_to).changed(model_id=DEAR)
        # Established by now, so its points lie further apart.
        ledger.jump(29 * DAY)
        commit = world.collect(Tree.of([before, after]))
        assert commit.record.step == 50 * ledger.registry.functions.modelUnit(MODEL).call()
        claimant.reverts("FaultsStepFits", claimant.thin_leaf(commit, 0))
        assert claimant.reverts("FaultsStepFits", claimant.thin_leaf(commit, 1))[1] == 100_000
