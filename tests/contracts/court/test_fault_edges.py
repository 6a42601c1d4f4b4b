"""Proofs of faults that miss by one thing, and punishments of owners that have little left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retally.protocol.case import Verdict
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.job import Assignment
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR
from tests.contracts.court.proofs import NO_LEAF, Claimant, Kind, bound, chunk_of
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import STAKE, World, key

OTHER = Bytes32(b"\x33" * 32)
ROUTER_2, VERIFIER_2 = key("another router"), key("another verifier")
ZERO = "0x" + "00" * 20


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


@pytest.fixture
def job(world: World) -> Job:
    """An honest job."""
    return world.job()


def slash_all(world: World) -> None:
    """Take the cheat's whole stake, as a court could."""
    order = (STAKE, ZERO, 0, [], 0, [], [], [])
    call = world.ledger.staking.functions.slash(world.cheat, OPERATOR, order)
    world.ledger.send(call, world.ledger.court.address)
    assert world.ledger.staking.functions.slashable(world.cheat, OPERATOR).call() == 0


class TestStatements:
    def test_of_two_routers_contradict_nothing(self, world: World, claimant: Claimant) -> None:
        first = Assignment(OTHER, world.router.address, 1, 2, 3, world.cheat_node.address, OTHER, 0, 0, 0, OTHER, 100)
        second = replace(first, router=ROUTER_2.address, node=world.nodes[1].address)
        call = claimant.statements("proveAssignments", world.router, first, second)
        claimant.reverts("FaultsNoContradiction", call)

    def test_of_two_verifiers_contradict_nothing(self, world: World, claimant: Claimant) -> None:
        verifier = world.verifier_keys[0]
        first = Verdict(1, 0, OTHER, verifier.address, 1, -5)
        second = replace(first, verifier=VERIFIER_2.address, verdict=2)
        claimant.reverts("FaultsNoContradiction", claimant.statements("proveVerdicts", verifier, first, second))


class TestReceipts:
    def test_of_two_ages_live_as_long_as_the_older(self, claimant: Claimant, job: Job) -> None:
        old = job.changed(output_root=OTHER, started_at=1, finished_at=2)
        # An honest node has forgotten the older job when the younger one can still be shown.
        assert claimant.reverts("FaultsReceiptVoid", claimant.conflict(job, old))[1:] == (False, 2)
        assert claimant.reverts("FaultsReceiptVoid", claimant.conflict(old, job))[1:] == (False, 2)

    def test_that_bill_nothing_refund_nothing(self, claimant: Claimant, job: Job) -> None:
        free = job.changed(cum_to=job.receipt.cum_from)
        assert claimant.reverts("FaultsBillingCorrect", claimant.overbilling(free))[0] == 0
        punished = claimant.proves(claimant.deviation(free.changed(choice=2)))
        assert (punished.kind, punished.refunded) == (Kind.DEVIATION, 0)
        assert punished.slashed > 0

    def test_of_an_empty_output_hold_no_leaf(self, claimant: Claimant, job: Job) -> None:
        call = claimant.broken_chunk(chunk_of(job, 0), job, 0, NO_LEAF, NO_LEAF)
        assert claimant.reverts("FaultsNotInOutput", call)[1] == 0

    @pytest.mark.parametrize(("params", "limit"), [(b'"maxTokens":100', 100), (b'"maxTokens":12,"x":0', 12)])
    def test_are_as_long_as_the_number_in_their_params(
        self, claimant: Claimant, job: Job, params: bytes, limit: int
    ) -> None:
        shown = job.changed(params_hash=Bytes32(keccak(params)))
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(shown, params)) == (1, 128, limit)

    def test_read_no_more_than_ten_digits_of_it(self, claimant: Claimant, job: Job) -> None:
        params = b'"maxTokens":00000000129'
        shown = job.changed(params_hash=Bytes32(keccak(params)))
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(shown, params)) == (1, 128, 12)

    def test_of_an_earlier_commit_are_not_late_in_the_next(self, world: World, claimant: Claimant) -> None:
        (first,) = world.jobs(1)
        world.collect(Tree.of([first]))
        (second,) = world.jobs(1)
        world.ledger.jump(600 + 7 * DAY)
        commit = world.collect(Tree.of([first, second]))
        index = commit.tree.jobs.index(first)
        # It was collected in time: that it stands in a late tree again costs nothing.
        assert claimant.reverts("FaultsNothingCollected", claimant.late_leaf(commit, index)) == (first.digest,)
        assert claimant.proves(claimant.late_leaf(commit, 1 - index)).refunded == second.receipt.fee


class TestFork:
    def test_nothing_signed_here_is_a_fault_on_another_chain(self, world: World, claimant: Claimant, job: Job) -> None:
        call = claimant.conflict(job, job.changed(output_root=OTHER))
        separator = world.ledger.escrow.functions.domainSeparator()
        here = separator.call()
        with world.ledger.reverted():
            world.ledger.rpc("anvil_setChainId", 77)
            try:
                elsewhere = separator.call()
                # The digests are others there, so nobody ever claimed them.
                claimant.reverts("FaultsClaimUnknown", call)
            finally:
                world.ledger.rpc("anvil_setChainId", 31337)
        assert elsewhere == replace(world.ledger.domain, chain_id=77).separator != here
        assert separator.call() == here == world.ledger.domain.separator
        assert claimant.proves(call).kind == Kind.CONFLICT


class TestPunish:
    def test_takes_nothing_from_whom_nothing_is_held(self, world: World, claimant: Claimant, job: Job) -> None:
        dear = job.changed(cum_to=5_000)
        world.collect(Tree.of([dear]))
        slash_all(world)
        punished = claimant.proves(claimant.overbilling(dear))
        assert (punished.slashed, punished.refunded) == (0, 0)
        assert world.ledger.escrow.functions.heldOf(world.cheat).call() == 0

    def test_takes_all_that_is_held_where_even_that_falls_short(self, world: World, claimant: Claimant) -> None:
        # Little more than may be paid out unaudited: the rest is held.
        dear = world.job().changed(cum_to=300 * MILLION)
        bound(world, claimant, dear)
        held = world.ledger.escrow.functions.heldOf(world.cheat).call()
        assert 0 < held < dear.receipt.fee
        slash_all(world)
        punished = claimant.proves(claimant.overbilling(dear, bound=True))
        assert punished.slashed + punished.refunded == held
        assert world.ledger.escrow.functions.heldOf(world.cheat).call() == 0
        world.supply()
