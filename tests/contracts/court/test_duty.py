"""Whom a commit's seed draws to audit it, and that nobody chooses it once the seed can be known (R-56)."""

from __future__ import annotations

from typing import Any

from tests.contracts.court.ledger import DAY, DEPLOYER, VERIFIER
from tests.contracts.court.test_audits import drawn_verifier
from tests.contracts.court.test_rendezvous import lot
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import BOND, SALT, World, key

CEILING_EACH = 12_000


def add_bond(world: World, verifier: str, amount: int) -> None:
    """What a verifier bonds, out of money that it has just got."""
    ledger = world.ledger
    ledger.send(ledger.asset.functions.faucet(verifier, amount), verifier)
    ledger.send(ledger.asset.functions.approve(ledger.staking.address, amount), verifier)
    ledger.send(ledger.staking.functions.stake(VERIFIER, amount), verifier)


def bond(world: World, amount: int, name: str = "more") -> list[str]:
    """More verifiers."""
    made: list[str] = [key(f"{name} {number}").address for number in range(amount)]
    for number, verifier in enumerate(made):
        add_bond(world, verifier, BOND + number * 10**6)
    return made


def twin(world: World, seed: bytes, commit_time: int) -> str:
    """Whom a seed draws, written a second time."""
    waits = {}
    staking = world.ledger.staking.functions
    for verifier in staking.owners(VERIFIER).call():
        bonded, *_, since = staking.stakeOf(verifier, VERIFIER).call()
        if since < commit_time:
            waits[verifier] = lot(seed, verifier) / (bonded * (commit_time - since))
    return str(min(waits, key=lambda verifier: waits[verifier]))


class TestDraw:
    def test_agrees_with_the_twin(self, world: World) -> None:
        """By stake and the time it was bonded before the commit."""
        ledger = world.ledger
        bond(world, 4)
        ledger.send(ledger.staking.functions.stake(VERIFIER, 3 * BOND), world.verifiers[1])
        ledger.jump(DAY)
        for _ in range(12):
            commit = world.committed(1)
            seed = ledger.audits.functions.seedOf(commit.record.id).call()
            assert drawn_verifier(world, commit) == twin(world, seed, commit.record.time)

    def test_nothing_staked_once_the_block_is_known_draws_another(self, world: World) -> None:
        ledger, staking = world.ledger, world.ledger.staking.functions
        others = bond(world, 4)
        ledger.jump(3 * DAY)
        commit = world.collect(Tree.of(world.jobs(2)))
        ledger.mine(6)

        def drawn() -> str:
            call = ledger.audits.functions.fixSeed(commit.abi)
            return str(ledger.send(call, world.outsider).event("DutyDrawn")["verifier"])

        with ledger.reverted():
            first = drawn()
        for verifier in (*world.verifiers, *others):
            for amount in (1, BOND, 100 * BOND):
                with ledger.reverted():
                    add_bond(world, verifier, amount)
                    # Nobody comes in by what it adds: it only makes its own stake younger.
                    assert (drawn() == first) or (verifier == first and amount > BOND)
        with ledger.reverted():
            bond(world, 6, "late")
            assert drawn() == first
        with ledger.reverted():
            leaver = next(verifier for verifier in world.verifiers if verifier != first)
            ledger.send(staking.thaw(VERIFIER, BOND), leaver)
            assert drawn() == first

    def test_asks_for_an_age_that_who_is_drawn_keeps(self, world: World) -> None:
        ledger = world.ledger
        made = ledger.constructor("Audits", *ledger.money, ledger.randomness.address, (0, DAY, DAY, 28 * DAY))
        sent = made.transact({"from": DEPLOYER, "gas": 16_000_000, "gasPrice": 0})
        address = ledger.web3.eth.wait_for_transaction_receipt(sent)["contractAddress"]
        old = ledger.web3.eth.contract(address=address, abi=ledger.audits.abi).functions

        def duty() -> tuple[str, int, Any]:
            commit = world.collect(Tree.of(world.jobs(1)))
            ledger.mine(6)
            ledger.send(old.fixSeed(commit.abi), world.outsider)
            return old.dutyOf(commit.record.id).call()[0], commit.record.id, old.commitVerdicts(commit.record.id, SALT)

        drawn, _, commitment_ = duty()
        assert int(drawn, 16) == 0
        assert ledger.reverts("AuditsNotBonded", commitment_, world.verifiers[0])[1] > 0
        ledger.jump(28 * DAY + 2)
        drawn, _, commitment_ = duty()
        assert drawn in world.verifiers
        (other,) = set(world.verifiers) - {drawn}
        for verifier in world.verifiers:
            add_bond(world, verifier, BOND)
        ledger.jump(DAY + 1)
        ledger.reverts("AuditsNotBonded", commitment_, other)
        ledger.send(commitment_, drawn)

    def test_walks_many_verifiers_in_one_transaction(self, world: World) -> None:
        def gas() -> int:
            commit = world.collect(Tree.of(world.jobs(1)))
            world.ledger.mine(6)
            return world.ledger.send(world.ledger.audits.functions.fixSeed(commit.abi), world.outsider).gas

        gas()  # from now on the outsider has a credit
        before = gas()
        bond(world, 20)
        each = (gas() - before) / 20
        assert each < CEILING_EACH, each
