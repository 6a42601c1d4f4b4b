"""Stories of an owner's cases of one epoch: no stake pays twice, none escapes, whatever came first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from compile_contracts import Artifact
from retally.protocol.encoding import keccak
from tests.contracts.court.cases import BOND, FEE, SEVERITY, TIP, Case, locked, open_case, opening, stake_of
from tests.contracts.court.ledger import BURN, DAY, MILLION, OPERATOR
from tests.contracts.court.proofs import Claimant
from tests.contracts.court.world import MATCH, MISMATCH, STAKE, World

EPOCH = 28 * DAY
DUST = 10


@pytest.fixture
def dusty(world: World) -> World:
    """The cheat has thawed all but dust, and an epoch has just begun."""
    staking = world.ledger.staking.functions
    world.ledger.send(staking.thaw(OPERATOR, STAKE - DUST), world.cheat)
    world.ledger.jump(21 * DAY + 1)
    world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
    world.ledger.jump(EPOCH - world.ledger.now() % EPOCH + 10)
    return world


def accuse(world: World, name: str, fee: int, challenger: str | None = None) -> Case:
    """A case of one receipt."""
    entries = [(1, keccak(name.encode()), world.payer.address, fee)]
    mined = world.ledger.send(opening(world, entries), challenger or world.challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], [], entries)


def stake(world: World, amount: int) -> None:
    """The cheat stakes more."""
    world.ledger.send(world.ledger.staking.functions.stake(OPERATOR, amount), world.cheat)


def leave(world: World) -> None:
    """The cheat takes out what it can."""
    staking, thawing = world.ledger.staking.functions, world.ledger.staking.functions.stakeOf(world.cheat, OPERATOR)
    world.ledger.send(staking.thaw(OPERATOR, thawing.call()[0]), world.cheat)
    world.ledger.jump(21 * DAY + 1)
    world.ledger.send(staking.withdraw(OPERATOR), world.cheat)


class TestDust:
    def test_a_slash_of_dust_uses_no_epoch_up(self, dusty: World) -> None:
        friend = dusty.friend.address
        assert accuse(dusty, "friendly", 1, friend).judged(MISMATCH)["slashed"] == 3
        stake(dusty, 10 * STAKE)
        case = accuse(dusty, "real", 100)
        assert locked(dusty, dusty.cheat) > 3 * STAKE - DUST
        assert 3 * STAKE - DUST < case.judged(MISMATCH)["slashed"] <= 3 * STAKE
        assert locked(dusty, dusty.cheat) == 0
        dusty.supply()

    def test_a_first_case_on_dust_locks_no_less_of_the_stake_that_comes(self, dusty: World) -> None:
        first = accuse(dusty, "friendly", 1, dusty.friend.address)
        stake(dusty, 10 * STAKE)
        second = accuse(dusty, "real", 100 * MILLION)
        assert locked(dusty, dusty.cheat) == 3 * (STAKE + DUST // 10) + 1 + 100 * MILLION
        leave(dusty)
        # What left meanwhile has not made the offence cheaper.
        event = second.judged(MISMATCH)
        assert (event["slashed"], event["refunded"]) == (3 * STAKE + 3, 100 * MILLION)
        first.judged(MATCH)
        assert locked(dusty, dusty.cheat) == 0

    def test_jurors_of_a_slash_of_dust_are_paid_by_the_fee(self, dusty: World) -> None:
        case = accuse(dusty, "small", 1)
        case.judged(MISMATCH)
        assert [case.credit(juror) for juror in case.jurors()] == [FEE // 3] * 3
        assert case.credit(dusty.challenger) == BOND + 4 * TIP

    @pytest.mark.parametrize("slashed", [FEE - 3, FEE])
    def test_a_slash_of_the_fee_pays_the_jurors_and_a_smaller_one_does_not(self, dusty: World, slashed: int) -> None:
        stake(dusty, slashed * 10 // 3 - DUST)
        case = accuse(dusty, "at the edge", 1)
        assert case.judged(MISMATCH)["slashed"] == slashed
        by_slash = slashed == FEE
        assert [case.credit(juror) for juror in case.jurors()] == [0 if by_slash else FEE // 3] * 3
        assert case.credit(dusty.challenger) == BOND + 4 * TIP + (FEE if by_slash else 0)


class TestStakeThatCameLater:
    def test_pays_too_and_what_paid_does_not_pay_again(self, world: World) -> None:
        cases = [open_case(world) for _ in range(3)]
        assert cases[0].judged(MISMATCH)["slashed"] == SEVERITY
        fees = sum(entry[3] for case in cases for entry in case.shown)
        # The lock has paid: only the others' fees are kept.
        assert locked(world, world.cheat) == fees * 2 // 3
        assert cases[1].judged(MISMATCH)["slashed"] == 0
        stake(world, STAKE)
        event = cases[2].judged(MISMATCH)
        assert SEVERITY - fees <= event["slashed"] < SEVERITY
        assert locked(world, world.cheat) == 0
        taken = world.ledger.court.functions.takenOf(world.cheat, cases[0].record[11]).call()
        assert taken == SEVERITY + event["slashed"]

    def test_a_match_frees_nothing_of_what_another_case_locks(self, world: World) -> None:
        first, second = open_case(world), open_case(world)
        leave(world)
        first.judged(MATCH)
        assert locked(world, world.cheat) == SEVERITY + sum(entry[3] for entry in second.shown)
        assert second.judged(MISMATCH)["slashed"] == SEVERITY
        assert locked(world, world.cheat) == 0

    def test_after_a_fault_that_took_part_of_the_lock_takes_all_but_the_refunds(self, world: World) -> None:
        case = open_case(world)
        leave(world)
        job, claimant = world.job(), Claimant(world)
        claimant.proves(claimant.conflict(job, job.changed(output_root=keccak(b"another"))))
        left, fees = stake_of(world, world.cheat), sum(entry[3] for entry in case.shown)
        assert left < SEVERITY
        event = case.judged(MISMATCH)
        assert (event["slashed"], event["refunded"]) == (left - fees, fees)
        assert (stake_of(world, world.cheat), locked(world, world.cheat)) == (0, 0)
        world.supply()

    def test_invented_fees_of_another_case_make_no_slash_dearer(self, world: World) -> None:
        accuse(world, "invented", 2**95, world.friend.address)
        assert open_case(world).judged(MISMATCH)["slashed"] == SEVERITY


class TestHeldCredit:
    def test_of_an_owner_whose_stake_has_left_is_slashed(self, world: World) -> None:
        leave(world)
        assert stake_of(world, world.cheat) == 0
        commit = world.committed(8)
        held = world.ledger.escrow.functions.heldOf(world.cheat).call()
        job = commit.tree.jobs[0]
        entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee)]
        mined = world.ledger.send(opening(world, entries), world.challenger)
        case = Case(world, mined.event("CaseOpened")["caseId"], [], entries)
        world.ledger.jump(DAY)
        event = case.judged(MISMATCH)
        assert event["slashed"] == -(-held * 3 // 10)
        assert event["refunded"] == job.receipt.fee
        left = held - event["slashed"] - event["refunded"]
        assert world.ledger.escrow.functions.heldOf(world.cheat).call() == left
        world.supply()


class TestBurn:
    def test_an_asset_that_refuses_it_keeps_no_case_from_its_end(
        self, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        """The asset, whose balances stay, sends nothing more to the burn address."""
        case = open_case(world)
        made = test_contracts["PickyAsset"]
        asset = world.ledger.deploy(made.abi, made.bytecode)
        code = world.ledger.web3.eth.get_code(asset.address)
        world.ledger.rpc("anvil_setCode", world.ledger.asset.address, "0x" + bytes(code).hex())
        picky = world.ledger.web3.eth.contract(address=world.ledger.asset.address, abi=made.abi)
        world.ledger.send(picky.functions.refuse(BURN, True), world.outsider)
        case.judged(MATCH)
        assert case.credit(BURN) == BOND - BOND // 2
        assert locked(world, world.cheat) == 0
