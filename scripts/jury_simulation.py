"""A coalition among the jurors: who is drawn, how they vote, who appeals, and which verdict stands in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.contracts.court.ledger import DAY, MILLION, PARAMETERS, Ledger
from tests.contracts.court.world import INCONCLUSIVE, MATCH, MISMATCH, World, key
from web3 import Web3
from web3.contract import Contract

from compile_contracts import collect_sources, compile_sources
from jury_lots import Entry
from retally.protocol.encoding import keccak

HARNESS = "tests/solidity/DrawHarness.sol"
APPEALS = 2
BATCH = 40


@dataclass(slots=True)
class Trial:
    """A case: everybody votes and appeals for the truth, the coalition for the contrary."""

    seed: bytes
    wanted: int
    guilty: bool = True
    verdict: int = 0
    appeals: int = 0
    enlarged: bool = False
    closed: bool = False
    sat: list[str] = field(default_factory=list)

    def hear(self, jury: Sequence[str], coalition: Collection[str]) -> None:
        """One round: the rules of R-62 and R-63, with an appeal by whoever has lost."""
        contrary = sum(juror in coalition for juror in jury)
        acquitting = contrary if self.guilty else len(jury) - contrary
        outcome = INCONCLUSIVE
        if 3 * acquitting >= 2 * len(jury):
            outcome = MATCH
        elif 3 * (len(jury) - acquitting) >= 2 * len(jury):
            outcome = MISMATCH
        self.sat += jury
        is_doubted = 2 * acquitting >= len(jury)
        if self.appeals == 0 or outcome != INCONCLUSIVE or (self.verdict == MISMATCH and is_doubted):
            self.verdict = outcome
        self.wanted = 2 * len(jury) + 1
        if outcome == INCONCLUSIVE and not self.enlarged:
            self.enlarged = True
        elif self.appeals < APPEALS:
            # The side that the verdict does not favour always appeals.
            self.appeals += 1
        else:
            self.closed = True
        self.seed = keccak(self.seed)


def founded(url: str, jury_size: int, owners: int, share: float, chance: Random) -> tuple[World, list[Entry], set[str]]:
    """A chain with operators of unequal stakes, and who of them is in the coalition."""
    court = (jury_size, *PARAMETERS["court"][1:])
    world = World(Ledger(url, court))
    ledger = world.ledger
    for number in range(owners):
        owner = Web3.to_checksum_address(key(f"sworn {number}").address)
        stake = chance.randint(1_000, 5_000) * MILLION
        ledger.send(ledger.asset.functions.faucet(owner, stake), owner)
        ledger.send(ledger.asset.functions.approve(ledger.staking.address, stake), owner)
        world.add_operator(owner, key(f"sworn node {number}"), stake)
    ledger.jump(DAY)
    entries = []
    for owner in ledger.pools.functions.membersOf(1).call():
        weight = ledger.pools.functions.entryOf(1, owner).call()[1]
        entries.append(Entry(owner, weight, 0 if owner == world.cheat else weight))
    return world, entries, colluding(entries, share, chance)


def colluding(entries: Sequence[Entry], share: float, chance: Random) -> set[str]:
    """Owners that hold this share of what may sit, as nearly as they come."""
    able = [entry for entry in entries if entry.worth]
    total, held, found = sum(entry.worth for entry in able), 0, set()
    for entry in chance.sample(able, len(able)):
        if held + entry.worth <= share * total:
            held += entry.worth
            found.add(entry.owner)
    return found


def harness(world: World) -> Contract:
    """A contract that draws many juries in one call."""
    made = compile_sources(collect_sources([HARNESS]))[HARNESS]["DrawHarness"]
    return world.ledger.deploy(made.abi, made.bytecode)


def draw_all(world: World, drawer: Contract, trials: Sequence[Trial], size: int) -> list[list[str]]:
    """The next jury of each trial, from the contract."""
    juries: list[list[str]] = []
    pools, most = world.ledger.pools.address, max(1, BATCH * 7 // size)
    for first in range(0, len(trials), most):
        part = trials[first : first + most]
        call = drawer.functions.draws(
            pools, [trial.seed for trial in part], size, world.cheat, [trial.sat for trial in part]
        )
        juries += call.call({"gas": 500_000_000})
    return juries


def try_cases(
    trials: Sequence[Trial], coalition: Collection[str], draw: Callable[[Sequence[Trial], int], list[list[str]]]
) -> list[str]:
    """Hear all cases to their end; return who sat first in each."""
    first: list[str] = []
    while waiting := [trial for trial in trials if not trial.closed]:
        for size in sorted({trial.wanted for trial in waiting}):
            part = [trial for trial in waiting if trial.wanted == size]
            for trial, jury in zip(part, draw(part, size), strict=True):
                if not trial.sat:
                    first.append(jury[0])
                trial.hear(jury, coalition)
    return first


def rates(trials: Sequence[Trial]) -> dict[str, float]:
    """Which part of the verdicts the coalition flipped, and which it blocked."""
    flipped = sum(trial.verdict == MATCH for trial in trials)
    blocked = sum(trial.verdict == INCONCLUSIVE for trial in trials)
    return {"flipped": flipped / len(trials), "blocked": blocked / len(trials)}
