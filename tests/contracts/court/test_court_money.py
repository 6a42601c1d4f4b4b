"""Who pays and who is paid when a case has been judged."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contracts.court.cases import BOND, CLOSED, FEE, SEVERITY, TIP, Case, locked, open_case, opening, stake_of
from tests.contracts.court.ledger import DAY, GOVERNOR, MILLION, OPERATOR
from tests.contracts.court.world import MATCH, MISMATCH, STAKE, World


@pytest.fixture
def case(world: World) -> Case:
    """A case just opened."""
    return open_case(world)


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
        assert case.credit(world.challenger) == FEE + BOND + 4 * TIP
        assert case.credit(world.outsider) == 3 * TIP
        before = world.ledger.balance(world.challenger)
        court = world.ledger.court.functions
        world.ledger.send(court.withdrawCredit(), world.challenger)
        assert world.ledger.balance(world.challenger) - before == FEE + BOND + 4 * TIP
        world.ledger.reverts("CourtNoCredit", court.withdrawCredit(), world.challenger)
        world.ledger.send(court.withdrawCredit(), world.outsider)
        assert world.ledger.balance(world.ledger.court.address) == 0

    def test_frees_the_locks_and_warns(self, world: World, case: Case) -> None:
        case.judged(MISMATCH)
        assert all(locked(world, owner) == 0 for owner in world.owners)
        assert world.ledger.registry.functions.warnedUntil(world.cheat).call() > world.ledger.now()
        assert case.status == CLOSED
        assert world.ledger.court.functions.takenOf(world.cheat, case.record[11]).call() == SEVERITY

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
        # What left while the case was heard has not made the offence cheaper.
        assert (event["slashed"], event["refunded"]) == (SEVERITY, fees)

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
        call = opening(world, first.shown * 2)
        again = Case(
            world, world.ledger.send(call, world.challenger).event("CaseOpened")["caseId"], [], first.shown * 2
        )
        first.judged(MISMATCH)
        assert again.judged(MISMATCH)["refunded"] == 0
        assert first.reward(world.payer.address) == sum(entry[3] for entry in first.shown)


class TestMatch:
    def test_a_griefing_challenger_pays(self, world: World, case: Case) -> None:
        before = world.supply()
        event = case.judged(MATCH)
        assert (event["slashed"], event["refunded"]) == (0, 0)
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert case.credit(world.cheat) == BOND // 2
        assert case.credit(world.challenger) == 4 * TIP
        assert stake_of(world, world.cheat) == STAKE
        assert locked(world, world.cheat) == 0
        after = world.supply()
        burn = next(holder for holder in after if holder.endswith("dEaD"))
        assert after[burn] - before[burn] == BOND - BOND // 2 + FEE - FEE // 3 * 3

    def test_bars_no_other_case(self, world: World, case: Case) -> None:
        case.judged(MATCH)
        assert open_case(world).judged(MISMATCH)["slashed"] == SEVERITY


class TestExecute:
    def test_reverts_for_other_entries_and_twice(self, world: World, case: Case) -> None:
        court = world.ledger.court.functions
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        world.ledger.jump(2 * DAY + 1)
        world.ledger.reverts("CourtWrongShown", court.execute(case.id, case.shown[:1]), world.outsider)
        call = court.execute(case.id, case.shown)
        world.ledger.send(call, world.outsider)
        world.ledger.reverts("CourtWrongStatus", call, world.outsider)

    @pytest.mark.parametrize("size", [0, 8])
    def test_a_jury_has_jurors_and_is_drawn_in_one_transaction(self, world: World, size: int) -> None:
        world.ledger.deployment_reverts("CourtJurySize", self._deployment(world, 0, size))

    def test_a_case_ends_before_the_stake_can_leave(self, world: World) -> None:
        world.ledger.deployment_reverts("DelaysOutOfOrder", self._deployment(world, 4, 3 * DAY))

    def _deployment(self, world: World, place: int, value: int) -> Any:
        """The court once more, with another parameter."""
        ledger = world.ledger
        chosen = list(ledger.court.functions.parameters().call())
        chosen[place] = value
        others = (ledger.randomness.address, ledger.pools.address, GOVERNOR, GOVERNOR)
        return ledger.constructor("Court", *ledger.money, *others, tuple(chosen))
