"""The Court: cases, juries, votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from eth_abi.abi import decode, encode

from retally.chain.contract import Contract, ContractCall
from retally.protocol.case import Shown
from retally.protocol.encoding import Address, Bytes32, checksum_address, keccak

CASES_AT_ONCE = 500

_SHOWN = "(uint64,bytes32,address,uint96)[]"


class CaseStatus(IntEnum):
    """Where a case stands."""

    NONE = 0
    DRAWING = 1
    VOTING = 2
    DECIDED = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class Case:
    """A case."""

    owner: Address
    status: int
    round: int
    appeals: int
    verdict: int
    enlarged: bool
    redrawn: bool
    own_job: bool
    challenger: Address
    pool: int
    opened_at: int
    epoch: int
    appeal_end: int
    tips: int
    shown_hash: Bytes32


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a case: all that is shown is of the pair that the juror pool judges."""

    owner: Address
    pool: int
    shown: Sequence[Shown]
    evidence_hash: bytes
    evidence_uri: str

    def to_abi(self) -> tuple[Any, ...]:
        """The struct for a call."""
        shown = [item.to_abi() for item in self.shown]
        return (self.owner, self.pool, shown, self.evidence_hash, self.evidence_uri)


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a case; `seed_block` is 0 unless it waits to be drawn."""

    size: int
    committed: int
    revealed: int
    commit_end: int
    reveal_end: int
    seed_block: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A juror's vote; verdict 0 until revealed, hash zero until committed and once revealed."""

    hash: Bytes32
    verdict: int


@dataclass(frozen=True, slots=True)
class Appeal:
    """An appeal: who paid, against which verdict, and what its jury said; 0 while it has not."""

    appellant: Address
    appealed: int
    outcome: int


def vote_hash(case_id: int, round_: int, juror: Address, verdict: int, log_e: int, salt: bytes) -> Bytes32:
    """What a juror commits before it reveals."""
    types = ["uint256", "uint16", "address", "uint8", "int64", "bytes32"]
    return keccak(encode(types, [case_id, round_, juror, verdict, log_e, salt]))


def decode_shown(data: bytes) -> tuple[Shown, ...]:
    """The entries of a case, as `CaseOpened` carries them."""
    (rows,) = decode([_SHOWN], data)
    # The decoder writes addresses in lower case; everywhere else they are checksummed.
    return tuple(Shown(commit, Bytes32(digest), checksum_address(payer), fee) for commit, digest, payer, fee in rows)


class Court(Contract):
    """Views and calls of the Court."""

    NAME = "Court"

    async def case_of(self, case_id: int) -> Case:
        """A case."""
        return Case(*await self.view("caseOf", case_id))

    async def cases(self) -> dict[int, Case]:
        """All cases by their ids."""
        return await self.cases_of(range(1, await self.case_count() + 1))

    async def cases_of(self, ids: Sequence[int]) -> dict[int, Case]:
        """These cases by their ids."""
        found: dict[int, Case] = {}
        for start in range(0, len(ids), CASES_AT_ONCE):
            some = ids[start : start + CASES_AT_ONCE]
            values = await self.views("caseOf", [(case_id,) for case_id in some])
            found |= {case_id: Case(*value) for case_id, value in zip(some, values, strict=True)}
        return found

    async def round_of(self, case_id: int, round_: int) -> Round:
        """A round of a case."""
        return Round(*await self.view("roundOf", case_id, round_))

    async def jurors_of(self, case_id: int, round_: int) -> tuple[Address, ...]:
        """The jury of a round, by seat."""
        return tuple(await self.view("jurorsOf", case_id, round_))

    async def vote_of(self, case_id: int, round_: int, seat: int) -> Vote:
        """The vote of the juror in a seat."""
        return Vote(*await self.view("voteOf", case_id, round_, seat))

    async def opening_cost(self) -> int:
        """What opening a case pulls."""
        return int(await self.view("openingCost"))

    async def case_fee(self) -> int:
        """What the jurors of a first round share."""
        return int((await self.view("parameters"))[6])

    async def tip(self) -> int:
        """What a step of a case pays its caller."""
        return int((await self.view("parameters"))[8])

    async def own_job_cost(self) -> int:
        """What the re-execution of an own job pulls."""
        return int(await self.view("ownJobCost"))

    async def appeal_cost(self, case_id: int) -> int:
        """What the next appeal of a case pulls; of a case that does not exist, what the first one of any does."""
        return int(await self.view("appealCost", case_id))

    async def appeals_of(self, case_id: int, count: int) -> tuple[Appeal, ...]:
        """The first `count` appeals of a case."""
        rows = await self.views("appealOf", [(case_id, number) for number in range(1, count + 1)]) if count else []
        return tuple(Appeal(*row) for row in rows)

    async def paused_until(self) -> int:
        """When the pause of new cases ends, or ended; 0 if there never was one."""
        return int(await self.view("pausedUntil"))

    async def case_count(self) -> int:
        """How many cases were opened; ids run from 1."""
        return int(await self.view("caseCount"))

    async def taken_of(self, owner: Address, epoch: int) -> int:
        """What cases opened in a 4-week epoch have taken as severities so far."""
        return int(await self.view("takenOf", owner, epoch))

    async def credit(self, account: Address) -> int:
        """What an account can withdraw."""
        return int(await self.view("credit", account))

    def open(self, opening: Opening) -> ContractCall:
        """Opens a case."""
        return self.call("open", opening.to_abi())

    def open_own_job(self, opening: Opening) -> ContractCall:
        """Has one job of the sender's own re-executed."""
        return self.call("openOwnJob", opening.to_abi())

    def draw(self, case_id: int) -> ContractCall:
        """Draws the jury."""
        return self.call("draw", case_id)

    def advance(self, case_id: int) -> ContractCall:
        """Draws, closes commits or decides, whichever is due."""
        return self.call("advance", case_id)

    def commit_vote(self, case_id: int, round_: int, seat: int, hash_: bytes) -> ContractCall:
        """Commits the vote of the juror in a seat."""
        return self.call("commitVote", case_id, round_, seat, hash_)

    def close_commits(self, case_id: int) -> ContractCall:
        """Begins the reveal phase when all have committed."""
        return self.call("closeCommits", case_id)

    def reveal_vote(self, case_id: int, round_: int, seat: int, verdict: int, log_e: int, salt: bytes) -> ContractCall:
        """Shows the vote of the juror in a seat."""
        return self.call("revealVote", case_id, round_, seat, verdict, log_e, salt)

    def decide(self, case_id: int) -> ContractCall:
        """Ends the round."""
        return self.call("decide", case_id)

    def appeal(self, case_id: int) -> ContractCall:
        """Opens a larger round against the decision."""
        return self.call("appeal", case_id)

    def execute(self, case_id: int, shown: Sequence[Shown]) -> ContractCall:
        """Ends the case: slash, refunds, fees and bonds."""
        return self.call("execute", case_id, [item.to_abi() for item in shown])

    def withdraw_credit(self) -> ContractCall:
        """Pays the sender its credit."""
        return self.call("withdrawCredit")
