"""All that people own, wherever it is kept: what a story cost them is the difference."""

from __future__ import annotations

from tests.contracts.court.ledger import BURN, OPERATOR, ROUTER, VERIFIER
from tests.contracts.court.world import World


def wealth(world: World, *people: str) -> int:
    """Assets, stakes, deposits, held credit and credits of these people together."""
    return sum(_wealth_of(world, who) for who in set(people))


def burned(world: World) -> int:
    """What is nobody's any more."""
    return world.ledger.balance(BURN)


def _wealth_of(world: World, who: str) -> int:
    ledger = world.ledger
    staking, escrow = ledger.staking.functions, ledger.escrow.functions
    balance, _, _, reserved = escrow.account(who).call()
    total = ledger.balance(who) + balance + reserved + escrow.heldOf(who).call()
    total += sum(staking.slashable(who, role).call() for role in (OPERATOR, ROUTER, VERIFIER))
    for contract in (ledger.staking, ledger.escrow, ledger.silence, ledger.court):
        total += contract.functions.credit(who).call()
    return int(total)
