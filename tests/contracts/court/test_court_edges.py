"""Cases whose refunds exceed all there is, rounds that wait, and pools full of what is worth nothing."""

from __future__ import annotations

from retally.protocol.encoding import keccak
from tests.contracts.court.cases import FEE, SEVERITY, Case, open_case, opening, stake_of
from tests.contracts.court.ledger import GOVERNOR, MILLION
from tests.contracts.court.transcripts import MODEL, PROFILE, Tree
from tests.contracts.court.world import MISMATCH, STAKE, World, operators

OTHER = keccak(b"no profile")
# Lots that a draw of one seat casts at most.
LOTS = 1 * 3 // 2 + 32


def opened(world: World, fee: int, own_job: bool = False) -> Case:
    """A case that claims a fee, whatever was collected."""
    entries = [(1, keccak(b"big"), world.payer.address, fee)]
    challenger = world.payer.address if own_job else world.challenger
    mined = world.ledger.send(opening(world, entries, own_job=own_job), challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], [], entries)


class TestMismatch:
    def test_takes_all_that_is_held_where_even_that_falls_short(self, world: World) -> None:
        ledger = world.ledger
        # Little more than may be paid out unaudited: the rest is held.
        world.collect(Tree.of([world.job().changed(cum_to=300 * MILLION)]))
        held = ledger.escrow.functions.heldOf(world.cheat).call()
        assert 0 < held < SEVERITY
        event = opened(world, STAKE).judged(MISMATCH)
        assert event["slashed"] + event["refunded"] == STAKE + held
        assert ledger.escrow.functions.heldOf(world.cheat).call() == 0
        assert stake_of(world, world.cheat) == 0
        world.supply()

    def test_of_an_own_job_refunds_no_more_than_there_is(self, world: World) -> None:
        case = opened(world, 2**96 - 1, own_job=True)
        event = case.judged(MISMATCH)
        assert (event["slashed"], event["refunded"]) == (0, STAKE)
        assert case.reward(world.payer.address) == STAKE
        assert stake_of(world, world.cheat) == 0
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3


class TestRoundOf:
    def test_says_of_a_round_that_waits_what_it_waits_for(self, world: World) -> None:
        case = open_case(world)
        round_of = world.ledger.court.functions.roundOf
        size, committed, revealed, commit_end, reveal_end, seed_block = round_of(case.id, 0).call()
        assert (size, committed, revealed, commit_end, reveal_end) == (3, 0, 0, 0, 0)
        assert seed_block > world.ledger.web3.eth.block_number - 10
        assert round_of(case.id, 1).call()[0] == 0
        case.draw()
        assert round_of(case.id, 0).call()[0] == 3
        assert round_of(case.id, 0).call()[5] == 0


class TestPools:
    def test_counts_no_owner_whose_node_was_revoked_as_ready(self, world: World) -> None:
        world.ledger.send(world.ledger.registry.functions.revokeNode(world.nodes[1].address), world.owners[1])
        readiness = world.ledger.pools.functions.readiness(MODEL, PROFILE).call()
        assert readiness == [False, 3, 3 * STAKE]

    def test_refresh_reverts_for_an_operator_that_never_enlisted(self, world: World) -> None:
        ledger, owner = world.ledger, world.outsider
        ledger.send(ledger.staking.functions.stake(1, STAKE), owner)
        call = ledger.pools.functions.refresh(MODEL, PROFILE, owner)
        assert ledger.reverts("PoolsNotEnlisted", call, owner)[1].lower() == owner.lower()

    def test_a_draw_ends_though_more_entries_are_worth_nothing_than_it_has_lots(self, world: World) -> None:
        operators(world, LOTS + 2 - len(world.owners))
        pools = world.ledger.pools.functions
        assert len(pools.membersOf(1).call()) > LOTS
        # Older than the first entry: all are too young to sit.
        assert pools.draw(1, keccak(b"seed"), 1, 1, [], []).call() == []


class TestRegistry:
    def test_calibrations_are_for_verifiers_of_a_known_profile(self, world: World) -> None:
        call = world.ledger.registry.functions.addCalibration(keccak(b"table"), MODEL, PROFILE, OTHER, "")
        assert world.ledger.reverts("RegistryUnknownProfile", call, GOVERNOR) == (OTHER,)
