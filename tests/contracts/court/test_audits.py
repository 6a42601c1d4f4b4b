"""Seeds, duties and the pay of verifiers (R-24, R-25)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi.abi import encode

from retally.protocol.audit_points import commit_seed
from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import DAY, GOVERNOR, VERIFIER
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import SALT, Commit, World


def verdicts_of(count: int, verdict: int = 1) -> bytes:
    """Packed verdicts, all the same."""
    return (bytes([verdict]) + (-5).to_bytes(8, "big", signed=True)) * count


def commitment(commit: Commit, verifier: str, verdicts: bytes) -> bytes:
    """What a verifier commits."""
    return keccak(
        encode(["uint64", "address", "bytes32", "bytes32"], [commit.record.id, verifier, keccak(verdicts), SALT])
    )


@pytest.fixture
def commit(world: World) -> Commit:
    """A commit whose seed nobody fixed yet."""
    return world.collect(Tree.of(world.jobs(8)))


def drawn_verifier(world: World, commit: Commit) -> str:
    """The verifier on duty."""
    return str(world.ledger.audits.functions.dutyOf(commit.record.id).call()[0])


class TestFixSeed:
    def test_is_the_seed_of_the_rule_and_pays_a_tip(self, world: World, commit: Commit) -> None:
        seed = world.fix_seed(commit)
        block = world.ledger.web3.eth.get_block(commit.record.seed_block)
        escrow = world.ledger.escrow
        assert seed == commit_seed(block["hash"], escrow.address, commit.record.id, commit.tree.root)
        tip = commit.record.step * commit.record.share_ppm // 10**6 // 10
        assert escrow.functions.credit(world.outsider).call() == tip > 0

    def test_reverts_before_its_block(self, world: World, commit: Commit) -> None:
        call = world.ledger.audits.functions.fixSeed(commit.abi)
        operands = world.ledger.reverts("AuditsSeedNotReady", call, world.outsider)
        assert operands[0] == commit.record.seed_block

    def test_reverts_when_fixed(self, world: World, commit: Commit) -> None:
        world.fix_seed(commit)
        call = world.ledger.audits.functions.fixSeed(commit.abi)
        assert world.ledger.reverts("AuditsSeedAlreadyFixed", call, world.outsider) == (commit.record.id,)

    def test_reverts_for_another_commit(self, world: World, commit: Commit) -> None:
        forged = replace(commit.record, step=1)
        call = world.ledger.audits.functions.fixSeed(forged.to_abi())
        world.ledger.reverts("AuditsUnknownCommit", call, world.outsider)

    @pytest.mark.parametrize("late", [0, 1, 5, 300])
    def test_rolls_on_by_half_windows(self, world: World, commit: Commit, late: int) -> None:
        ledger = world.ledger
        window = ledger.randomness.functions.window().call()
        appointed = commit.record.seed_block
        # The call itself is built on top of the latest block.
        ledger.mine(appointed + window + late - ledger.web3.eth.block_number - 1)
        source = ledger.send(ledger.audits.functions.fixSeed(commit.abi), world.outsider).event("SeedFixed")
        halves = -(-late // (window // 2))
        assert source["blockNumber"] == appointed + halves * (window // 2)

    def test_names_the_block_it_would_read(self, world: World, commit: Commit) -> None:
        assert world.ledger.audits.functions.currentSeedBlock(commit.record.seed_block).call() > 0
        assert world.ledger.audits.functions.parameters().call()[1] == DAY


class TestDuty:
    def test_is_never_the_owners_nor_its_siblings(self, world: World) -> None:
        ledger = world.ledger
        sibling = world.owners[1]
        for owner in (world.cheat, sibling):
            ledger.send(ledger.staking.functions.stake(VERIFIER, 10**10), owner)
        ledger.send(ledger.registry.functions.declareSibling(sibling, True), world.cheat)
        ledger.send(ledger.registry.functions.declareSibling(world.cheat, True), sibling)
        for _ in range(4):
            assert drawn_verifier(world, world.committed(1)) in world.verifiers

    def test_is_nobodys_when_only_parties_are_bonded(self, world: World) -> None:
        ledger = world.ledger
        ledger.send(ledger.staking.functions.stake(VERIFIER, 10**10), world.cheat)
        for verifier in world.verifiers:
            ledger.send(ledger.staking.functions.thaw(VERIFIER, 200_000_000), verifier)
        commit = world.committed(1)
        assert int(drawn_verifier(world, commit), 16) == 0
        call = ledger.audits.functions.commitVerdicts(commit.record.id, SALT)
        ledger.reverts("AuditsNotBonded", call, world.verifiers[0])
        assert ledger.reverts("AuditsParty", call, world.cheat)[1] == world.cheat.lower()


class TestCountDrawn:
    @pytest.mark.parametrize("jobs", [1, 2, 40])
    def test_equals_python(self, world: World, jobs: int) -> None:
        commit = world.committed(jobs)
        count = world.ledger.audits.functions.countDrawn(commit.abi, commit.packed).call()
        assert count == len(world.points(commit))

    def test_reverts_without_seed(self, world: World, commit: Commit) -> None:
        call = world.ledger.audits.functions.countDrawn(commit.abi, commit.packed)
        world.ledger.reverts("AuditsSeedNotFixed", call, world.outsider)

    def test_reverts_for_other_ranges(self, world: World, commit: Commit) -> None:
        world.fix_seed(commit)
        call = world.ledger.audits.functions.countDrawn(commit.abi, commit.packed + bytes(68))
        world.ledger.reverts("AuditsWrongRanges", call, world.outsider)


class TestVerdicts:
    def test_pays_each_point_whatever_the_verdict(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        count = len(world.points(commit))
        verdicts = verdicts_of(count, verdict=2)
        call = ledger.audits.functions.commitVerdicts(commit.record.id, commitment(commit, verifier, verdicts))
        ledger.send(call, verifier)
        pool = ledger.escrow.functions.auditPool().call()
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
        assert ledger.send(reveal, verifier).event("VerdictsRevealed")["verdicts"] == verdicts
        earned = count * commit.record.step * commit.record.share_ppm // 10**6
        paid = ledger.escrow.functions.credit(verifier).call()
        assert paid == min(earned, pool)
        assert ledger.audits.functions.owedTo(verifier).call() == earned - paid

    def test_is_paid_the_rest_once_the_pool_has_it(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        verdicts = verdicts_of(len(world.points(commit)))
        bound = commitment(commit, verifier, verdicts)
        ledger.send(ledger.audits.functions.commitVerdicts(commit.record.id, bound), verifier)
        with ledger.reverted():
            self._drain(world)
            reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
            mined = ledger.send(reveal, verifier)
            owed = ledger.audits.functions.owedTo(verifier).call()
            assert mined.event("PayOwed")["amount"] == owed > 0
            operands = ledger.reverts("AuditsNothingOwed", ledger.audits.functions.collectOwed(), verifier)
            assert operands == (owed, 0)
            ledger.send(ledger.escrow.functions.fundAuditPool(10**6), world.outsider)
            before = ledger.escrow.functions.credit(verifier).call()
            ledger.send(ledger.audits.functions.collectOwed(), verifier)
            assert ledger.escrow.functions.credit(verifier).call() - before == owed
            assert ledger.audits.functions.owedTo(verifier).call() == 0

    def test_those_of_removed_audits_still_succeed_unpaid(self, world: World) -> None:
        ledger, commit = world.ledger, world.collect(Tree.of(world.jobs(40)))
        pool = ledger.escrow.functions.auditPool().call()
        ledger.send(ledger.staking.functions.removeSlasher(ledger.audits.address), GOVERNOR)
        world.fix_seed(commit)
        assert ledger.escrow.functions.credit(world.outsider).call() == 0
        verifier = drawn_verifier(world, commit)
        verdicts = verdicts_of(len(world.points(commit)))
        bound = commitment(commit, verifier, verdicts)
        ledger.send(ledger.audits.functions.commitVerdicts(commit.record.id, bound), verifier)
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
        assert ledger.send(reveal, verifier).event("VerdictsRevealed")["verdicts"] == verdicts
        assert ledger.escrow.functions.credit(verifier).call() == 0
        assert ledger.escrow.functions.auditPool().call() == pool

    def _drain(self, world: World) -> None:
        ledger = world.ledger
        slasher = ledger.audits.address
        ledger.send(ledger.escrow.functions.payFromAuditPool(world.outsider, 2**95), slasher)
        assert ledger.escrow.functions.auditPool().call() == 0

    def test_reverts_before_the_seed(self, world: World, commit: Commit) -> None:
        call = world.ledger.audits.functions.commitVerdicts(commit.record.id, SALT)
        world.ledger.reverts("AuditsSeedNotFixed", call, world.verifiers[0])

    def test_reverts_for_whom_is_not_bonded(self, world: World, commit: Commit) -> None:
        world.fix_seed(commit)
        call = world.ledger.audits.functions.commitVerdicts(commit.record.id, SALT)
        world.ledger.reverts("AuditsNotBonded", call, world.outsider)
        world.ledger.send(world.ledger.staking.functions.stake(VERIFIER, 200_000_000), world.outsider)
        world.ledger.reverts("AuditsNotBonded", call, world.outsider)

    def test_only_the_drawn_one_until_its_time_is_over(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        drawn = drawn_verifier(world, commit)
        (other,) = set(world.verifiers) - {drawn}
        call = ledger.audits.functions.commitVerdicts(commit.record.id, SALT)
        assert ledger.reverts("AuditsNotYourDuty", call, other)[0].lower() == drawn.lower()
        ledger.jump(DAY + 1)
        ledger.send(call, other)
        ledger.reverts("AuditsCommitmentStands", call, drawn)
        ledger.jump(DAY + 1)
        ledger.send(call, drawn)

    def test_taking_over_is_paid_and_costs_the_absent(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        drawn = drawn_verifier(world, commit)
        (other,) = set(world.verifiers) - {drawn}
        ledger.jump(DAY + 1)
        verdicts = verdicts_of(len(world.points(commit)))
        bound = commitment(commit, other, verdicts)
        ledger.send(ledger.audits.functions.commitVerdicts(commit.record.id, bound), other)
        stake = ledger.staking.functions.slashable(drawn, VERIFIER).call()
        ledger.send(ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT), other)
        assert ledger.staking.functions.slashable(drawn, VERIFIER).call() == stake * 99 // 100
        assert ledger.escrow.functions.credit(other).call() > 0
        world.supply()

    def test_reverts_when_paid(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        verdicts = verdicts_of(len(world.points(commit)))
        call = ledger.audits.functions.commitVerdicts(commit.record.id, commitment(commit, verifier, verdicts))
        ledger.send(call, verifier)
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
        ledger.send(reveal, verifier)
        ledger.reverts("AuditsAlreadyPaid", reveal, verifier)
        ledger.reverts("AuditsAlreadyPaid", call, verifier)

    def test_reverts_for_what_was_not_committed(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        count = len(world.points(commit))
        verdicts = verdicts_of(count)
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
        ledger.reverts("AuditsNothingCommitted", reveal, verifier)
        ledger.send(
            ledger.audits.functions.commitVerdicts(commit.record.id, commitment(commit, verifier, verdicts)), verifier
        )
        other = verdicts_of(count, verdict=2)
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, other, SALT)
        ledger.reverts("AuditsRevealMismatch", reveal, verifier)

    def test_reverts_for_malformed_verdicts(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        unknown = verdicts_of(len(world.points(commit)), verdict=4)
        functions = ledger.audits.functions
        for given in (unknown[:-1], unknown):
            with ledger.reverted():
                bound = commitment(commit, verifier, given)
                ledger.send(functions.commitVerdicts(commit.record.id, bound), verifier)
                reveal = functions.revealVerdicts(commit.abi, commit.packed, given, SALT)
                if given == unknown:
                    assert ledger.reverts("AuditsInvalidVerdict", reveal, verifier) == (0, 4)
                else:
                    operands = ledger.reverts("AuditsWrongVerdictCount", reveal, verifier)
                    assert operands == (len(unknown), len(given))

    def test_reverts_in_the_block_of_the_commitment(self, world: World, commit: Commit) -> None:
        ledger = world.ledger
        world.fix_seed(commit)
        verifier = drawn_verifier(world, commit)
        verdicts = verdicts_of(len(world.points(commit)))
        bound = commitment(commit, verifier, verdicts)
        ledger.send(ledger.audits.functions.commitVerdicts(commit.record.id, bound), verifier)
        reveal = ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
        ledger.reverts("AuditsRevealTooEarly", reveal, verifier, block="latest")
