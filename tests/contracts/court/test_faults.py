"""Faults that signatures alone prove, and claims of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi.abi import encode

from retally.protocol.case import Verdict
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.job import Assignment
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR, PARAMETERS, ROUTER, VERIFIER
from tests.contracts.court.proofs import Claimant, Kind, pair_evidence
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import BOND, STAKE, World, key

SIGNED_CAP = PARAMETERS["faults"][1]
SEVERITY = STAKE * 50_000 // MILLION
OTHER = Bytes32(b"\x33" * 32)


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


@pytest.fixture
def job(world: World) -> Job:
    """An honest job."""
    return world.job()


def subject(kind: int, what: bytes) -> bytes:
    """What a fault cannot be proven about again."""
    return keccak(encode(["uint8", "bytes32"], [kind, what]))


class TestClaims:
    def test_reverts_without_a_claim_of_ones_own(self, world: World, job: Job) -> None:
        other = job.changed(output_root=OTHER)
        call = Claimant(world).conflict(job, other)
        thief = world.friend.address
        claim = world.ledger.reverts("FaultsClaimUnknown", call, thief)[0]
        salt = call.args[-1]
        evidence = pair_evidence(job.digest, other.digest)
        assert claim == world.ledger.faults.functions.claimHash(thief, evidence, salt).call()

    def test_reverts_in_the_block_of_the_claim(self, world: World, job: Job) -> None:
        call = Claimant(world).conflict(job, job.changed(output_root=OTHER))
        world.ledger.reverts("FaultsClaimTooFresh", call, world.outsider, block="latest")

    def test_reverts_when_claimed_twice(self, world: World) -> None:
        call = world.ledger.faults.functions.commitClaim(OTHER)
        world.ledger.send(call, world.outsider)
        assert world.ledger.reverts("FaultsClaimExists", call, world.outsider) == (OTHER,)


class TestConflict:
    def test_slashes_and_rewards(self, world: World, claimant: Claimant, job: Job) -> None:
        before = world.supply()
        other = job.changed(output_root=OTHER)
        punished = claimant.proves(claimant.conflict(job, other))
        assert (punished.kind, punished.owner, punished.slashed, punished.refunded) == (
            Kind.CONFLICT, world.cheat, SEVERITY, 0,
        )  # fmt: skip
        staking = world.ledger.staking.functions
        assert staking.credit(world.outsider).call() == SEVERITY // 5
        assert staking.slashable(world.cheat, OPERATOR).call() == STAKE - SEVERITY
        what = keccak(encode(["address", "bytes32", "uint16"], [job.receipt.node, job.receipt.job_id, 0]))
        assert punished.subject == subject(Kind.CONFLICT, what)
        assert world.ledger.faults.functions.isPunished(punished.subject).call()
        assert before != world.supply()

    def test_reverts_the_second_time(self, claimant: Claimant, job: Job) -> None:
        claimant.proves(claimant.conflict(job, job.changed(output_root=OTHER)))
        again = claimant.conflict(job.changed(output_root=OTHER), job.changed(started_at=1))
        claimant.reverts("FaultsAlreadyProven", again)

    def test_reverts_when_nothing_contradicts(self, world: World, claimant: Claimant, job: Job) -> None:
        claimant.reverts("FaultsNoContradiction", claimant.conflict(job, job))
        claimant.reverts("FaultsNoContradiction", claimant.conflict(job, world.job()))
        claimant.reverts("FaultsNoContradiction", claimant.conflict(job, job.changed(choice=1)))
        later = job.changed(output_from=128, output_to=200)
        claimant.reverts("FaultsNoContradiction", claimant.conflict(job, later))
        elsewhere = replace(job, node=world.nodes[1]).changed(node=world.nodes[1].address)
        claimant.reverts("FaultsNoContradiction", claimant.conflict(job, elsewhere))

    def test_reverts_for_a_forged_signature(self, world: World, claimant: Claimant, job: Job) -> None:
        forged = replace(job, node=world.nodes[1]).changed(output_root=OTHER)
        claimant.reverts("SignatureNotBy", claimant.conflict(job, forged))

    def test_is_void_when_late_revoked_or_of_nobody(self, world: World, claimant: Claimant, job: Job) -> None:
        other = job.changed(output_root=OTHER)
        stray = replace(job, node=key("stray")).changed(node=key("stray").address)
        claimant.reverts("FaultsUnknownNode", claimant.conflict(stray, stray.changed(output_root=OTHER)))
        with world.ledger.reverted():
            world.ledger.jump(28 * DAY + 5)
            claimant.reverts("FaultsReceiptVoid", claimant.conflict(job, other))
        world.ledger.send(world.ledger.registry.functions.revokeNode(job.receipt.node), world.cheat)
        assert claimant.reverts("FaultsReceiptVoid", claimant.conflict(job, other))[1]

    def test_a_stolen_key_costs_no_more_than_the_cap(self, world: World, claimant: Claimant) -> None:
        slashed = 0
        for _ in range(4):
            job = world.job()
            proven = claimant.proves(claimant.conflict(job, job.changed(output_root=OTHER)))
            slashed += proven.slashed
        assert slashed == SIGNED_CAP
        assert world.ledger.faults.functions.takenBySignatures(world.cheat_node.address).call() == SIGNED_CAP
        assert tuple(world.ledger.faults.functions.faultParameters().call()) == PARAMETERS["faults"]


class TestOverbilling:
    def test_refunds_what_was_collected(self, world: World, claimant: Claimant) -> None:
        dear = world.job().changed(cum_to=5_000)
        world.collect(Tree.of([dear]))
        punished = claimant.proves(claimant.overbilling(dear))
        assert (punished.slashed, punished.refunded) == (SEVERITY, 5_000)
        assert world.ledger.staking.functions.credit(world.payer.address).call() == 5_000
        assert world.ledger.staking.functions.isRefunded(dear.digest).call()
        claimant.reverts("FaultsAlreadyProven", claimant.overbilling(dear))

    def test_refunds_nothing_that_was_not_collected(self, world: World, claimant: Claimant, job: Job) -> None:
        dear = job.changed(cum_to=5_000)
        assert claimant.proves(claimant.overbilling(dear)).refunded == 0
        assert not world.ledger.staking.functions.isRefunded(dear.digest).call()

    def test_a_fee_above_the_requests_maximum(self, claimant: Claimant, job: Job) -> None:
        request = replace(job.request, max_fee=job.receipt.fee - 1)
        dear = replace(job, request=request).changed(job_id=request.digest(job.domain))
        assert claimant.proves(claimant.overbilling(dear)).kind == Kind.OVERBILLING

    @pytest.mark.parametrize("price", ["price_in", "price_cached", "price_out"])
    def test_a_price_above_the_requests_maximum(self, claimant: Claimant, job: Job, price: str) -> None:
        dear = job.offered(**{price: 10_000_000})
        assert claimant.proves(claimant.overbilling(dear)).slashed == SEVERITY

    @pytest.mark.parametrize("cached", [0, 30, 60, 99])
    def test_cached_tokens_only_lower_a_fee(self, claimant: Claimant, job: Job, cached: int) -> None:
        fee = 60 * 2 - min(cached, 60) + 128 * 6
        exact = job.changed(cached_tokens=cached, cum_to=fee)
        assert claimant.reverts("FaultsBillingCorrect", claimant.overbilling(exact)) == (fee, fee)
        claimant.proves(claimant.overbilling(exact.changed(cum_to=fee + 1)))

    def test_other_choices_and_empty_outputs_bill_no_input(self, claimant: Claimant, job: Job) -> None:
        second = job.changed(choice=1, cum_to=128 * 6)
        claimant.reverts("FaultsBillingCorrect", claimant.overbilling(second))
        claimant.proves(claimant.overbilling(second.changed(cum_to=128 * 6 + 1)))
        empty = job.changed(output_to=0, cum_to=1)
        claimant.proves(claimant.overbilling(empty))

    def test_reverts_for_another_offer_or_request(self, claimant: Claimant, job: Job) -> None:
        other = replace(job, offer=replace(job.offer, price_out=1))
        claimant.reverts("FaultsNotReferenced", claimant.overbilling(other))
        other = replace(job, request=replace(job.request, max_fee=1))
        claimant.reverts("FaultsNotReferenced", claimant.overbilling(other))


class TestDeviation:
    @pytest.mark.parametrize(
        "fields",
        [
            {"payer": key("friend").address},
            {"signer": key("friend").address},
            {"model_id": OTHER},
            {"profile_id": OTHER},
            {"params_hash": OTHER},
            {"seed": OTHER},
            {"choice": 2},
            {"output_to": 513},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_slashes(self, claimant: Claimant, job: Job, fields: dict[str, object]) -> None:
        punished = claimant.proves(claimant.deviation(job.changed(**fields)))
        assert (punished.kind, punished.slashed) == (Kind.DEVIATION, SEVERITY)

    @pytest.mark.parametrize("fields", [{"node": key("node 1").address}, {"model_id": OTHER}, {"profile_id": OTHER}])
    def test_slashes_for_an_offer_of_something_else(
        self, claimant: Claimant, job: Job, fields: dict[str, object]
    ) -> None:
        assert claimant.proves(claimant.deviation(job.offered(**fields))).slashed > 0

    def test_slashes_for_a_profile_that_was_not_asked_for(self, claimant: Claimant, job: Job) -> None:
        request = replace(job.request, profile_id=OTHER)
        other = replace(job, request=request).changed(job_id=request.digest(job.domain))
        assert claimant.proves(claimant.deviation(other)).slashed > 0

    def test_reverts_for_an_honest_receipt(self, claimant: Claimant, job: Job) -> None:
        assert claimant.reverts("FaultsNoDeviation", claimant.deviation(job)) == (job.digest,)


class TestStatements:
    def test_a_router_that_counts_twice(self, world: World, claimant: Claimant) -> None:
        router = world.router
        first = Assignment(OTHER, router.address, 1, 2, 3, world.cheat_node.address, OTHER, 0, 0, 0, OTHER, 100)
        second = replace(first, node=world.nodes[1].address)
        call = claimant.statements("proveAssignments", router, first, second)
        assert claimant.proves(call).kind == Kind.ASSIGNMENTS
        assert world.ledger.staking.functions.slashable(router.address, ROUTER).call() == BOND * 95 // 100
        call = claimant.statements("proveAssignments", router, first, replace(second, counter=4))
        claimant.reverts("FaultsNoContradiction", call)
        call = claimant.statements("proveAssignments", router, first, first)
        claimant.reverts("FaultsNoContradiction", call)

    def test_a_verifier_that_says_both(self, world: World, claimant: Claimant) -> None:
        verifier = world.verifier_keys[1]
        first = Verdict(1, 0, OTHER, verifier.address, 1, -5)
        second = replace(first, verdict=2)
        call = claimant.statements("proveVerdicts", verifier, first, second)
        assert claimant.proves(call).kind == Kind.VERDICTS
        assert world.ledger.staking.functions.slashable(verifier.address, VERIFIER).call() == BOND * 99 // 100
        call = claimant.statements("proveVerdicts", verifier, first, replace(second, round=1))
        claimant.reverts("FaultsNoContradiction", call)
