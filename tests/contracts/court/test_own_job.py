"""A payer has one job of its own re-executed by a jury."""

from __future__ import annotations

from tests.contracts.court.cases import FEE, SEVERITY, TIP, Case, locked, open_case, opening, stake_of
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, STAKE, World


def open_own_job(world: World) -> Case:
    """The payer's own job of a commit, drawn or not."""
    commit = world.committed(2)
    job = commit.tree.jobs[0]
    entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee)]
    mined = world.ledger.send(opening(world, entries, own_job=True), world.payer.address)
    return Case(world, mined.event("CaseOpened")["caseId"], [job], entries)


class TestOwnJob:
    def test_costs_fee_and_tips_and_locks_no_severity(self, world: World) -> None:
        before = world.ledger.balance(world.payer.address)
        case = open_own_job(world)
        assert before - world.ledger.balance(world.payer.address) == FEE + 7 * TIP
        assert world.ledger.court.functions.ownJobCost().call() == FEE + 7 * TIP
        assert locked(world, world.cheat) == FEE + case.shown[0][3]

    def test_a_mismatch_pays_job_and_fee_back_and_warns(self, world: World) -> None:
        case = open_own_job(world)
        event = case.judged(MISMATCH)
        assert (event["slashed"], event["refunded"]) == (0, FEE + case.shown[0][3])
        assert case.reward(world.payer.address) == FEE + case.shown[0][3]
        assert stake_of(world, world.cheat) == STAKE - FEE - case.shown[0][3]
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert world.ledger.registry.functions.warnedUntil(world.cheat).call() > world.ledger.now()
        assert locked(world, world.cheat) == 0
        world.supply()

    def test_a_match_pays_the_jurors_and_loses_no_bond(self, world: World) -> None:
        case = open_own_job(world)
        case.judged(MATCH)
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert case.credit(world.payer.address) == 4 * TIP
        assert case.credit(world.cheat) == 0
        world.supply()

    def test_is_no_part_of_any_case(self, world: World) -> None:
        open_own_job(world).judged(MISMATCH)
        court = world.ledger.court.functions
        case = open_case(world)
        assert court.takenOf(world.cheat, case.record[11]).call() == 0
        severity = -(-stake_of(world, world.cheat) * SEVERITY // STAKE)
        assert case.judged(MISMATCH)["slashed"] == severity

    def test_an_invented_fee_locks_no_more_than_the_case_fee_again(self, world: World) -> None:
        entry = (1, bytes(32), world.payer.address, 2**95)
        world.ledger.send(opening(world, [entry], own_job=True), world.payer.address)
        assert locked(world, world.cheat) == 2 * FEE

    def test_ends_inconclusive_without_cost_to_the_owner(self, world: World) -> None:
        case = open_own_job(world)
        case.judged(INCONCLUSIVE, rounds=1)
        assert stake_of(world, world.cheat) == STAKE
        world.supply()

    def test_reverts_for_another_payers_job_or_two(self, world: World) -> None:
        entry = (1, bytes(32), world.payer.address, 1)
        call = opening(world, [entry], own_job=True)
        assert world.ledger.reverts("CourtNotPayer", call, world.friend.address)[0] == world.payer.address.lower()
        two = opening(world, [entry] * 2, own_job=True)
        assert world.ledger.reverts("CourtShownCount", two, world.payer.address) == (2, 1)
