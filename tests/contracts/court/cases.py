"""A case as a challenger opens it, jurors judge it and anybody ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import COURT, DAY, MILLION, OPERATOR
from tests.contracts.court.transcripts import MODEL, PROFILE, Job
from tests.contracts.court.world import STAKE, World

FEE, BOND, TIP = COURT["fee"], COURT["bond"], COURT["tip"]
SEVERITY = STAKE * 300_000 // MILLION
SHOWN = "(uint64,bytes32,address,uint96)[]"
DRAWING, VOTING, DECIDED, CLOSED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Case:
    """A case under way."""

    world: World
    id: int
    jobs: list[Job]
    shown: list[tuple[Any, ...]]

    @property
    def record(self) -> tuple[Any, ...]:
        """What the court stores: owner, status, round, appeals, verdict, enlarged, redrawn, …"""
        return tuple(self.world.ledger.court.functions.caseOf(self.id).call())

    @property
    def status(self) -> int:
        """Where it stands."""
        return int(self.record[1])

    def jurors(self, round_: int = 0) -> list[str]:
        """Who sits."""
        return list(self.world.ledger.court.functions.jurorsOf(self.id, round_).call())

    def draw(self) -> list[str]:
        """Draw the round's jury."""
        self.world.ledger.mine(6)
        mined = self.world.ledger.send(self.world.ledger.court.functions.draw(self.id), self.world.outsider)
        drawn = [args["jurors"] for name, args in mined.events if name == "JurorsDrawn"]
        return list(drawn[0]) if drawn else []

    def decide(self) -> int:
        """End the round and return its verdict."""
        mined = self.world.ledger.send(self.world.ledger.court.functions.decide(self.id), self.world.outsider)
        return int(mined.event("CaseDecided")["verdict"])

    def vote_all(self, verdict: int, round_: int = 0) -> None:
        """Everybody votes the same."""
        self.world.vote(self.id, round_, dict.fromkeys(self.jurors(round_), verdict))

    def execute(self) -> Any:
        """Let the appeal window pass and execute."""
        self.world.ledger.jump(2 * DAY + 1)
        call = self.world.ledger.court.functions.execute(self.id, self.shown)
        return self.world.ledger.send(call, self.world.outsider).event("CaseExecuted")

    def judged(self, verdict: int, rounds: int = 0) -> Any:
        """The whole life up to its execution, with a unanimous jury; no larger one can be seated in `rounds` more."""
        self.draw()
        self.vote_all(verdict)
        assert self.decide() == verdict
        for _ in range(2 * rounds):
            assert self.draw() == []
        return self.execute()

    def credit(self, account: str) -> int:
        """What an account may withdraw from the court."""
        return int(self.world.ledger.court.functions.credit(account).call())

    def reward(self, account: str) -> int:
        """What an account may withdraw from the stakes' contract."""
        return int(self.world.ledger.staking.functions.credit(account).call())


def opening(world: World, entries: list[tuple[Any, ...]], own_job: bool = False, owner: str | None = None) -> Any:
    """The call that opens a case of these entries against the cheat."""
    court = world.ledger.court.functions
    pool = world.ledger.pools.functions.poolOf(MODEL, PROFILE).call()
    what = (owner or world.cheat, pool, entries, keccak(b"evidence"), "http://evidence")
    return court.openOwnJob(what) if own_job else court.open(what)


def open_case(world: World, jobs: int = 4, shown: int = 2, challenger: str | None = None) -> Case:
    """A case that shows some of the jobs of a commit."""
    commit = world.committed(jobs)
    made = list(commit.tree.jobs)[:shown]
    entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee) for job in made]
    mined = world.ledger.send(opening(world, entries), challenger or world.challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], made, entries)


def stake_of(world: World, owner: str) -> int:
    """Slashable stake of an operator."""
    return int(world.ledger.staking.functions.slashable(owner, OPERATOR).call())


def locked(world: World, owner: str) -> int:
    """What is kept from leaving."""
    return int(world.ledger.staking.functions.lockedOf(owner, OPERATOR).call())
