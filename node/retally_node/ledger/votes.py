"""Jury votes and challenges in the ledger: a salt lost is a vote lost."""

from __future__ import annotations

from dataclasses import dataclass

from retally_node.ledger.database import Database
from retally_node.ledger.schema import amount_to_blob, blob_to_amount


@dataclass(frozen=True, slots=True)
class Vote:
    """A juror's vote; states are new, committed, revealed, missed."""

    case_id: int
    round: int
    verdict: int
    log_e: int
    salt: bytes
    state: str = "new"


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """An answer demanded on chain."""

    id: bytes
    commit_id: int
    channel: bytes
    point: int


class VoteLedger:
    """Votes before they are committed, and challenges before they are answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record_vote(self, vote: Vote) -> None:
        """Write a vote before its commitment is sent; the first one written stands."""
        row = (vote.case_id, vote.round, vote.verdict, vote.log_e, vote.salt, vote.state)
        await self._database.write(
            "vote", lambda connection: connection.execute("INSERT OR IGNORE INTO votes VALUES (?,?,?,?,?,?)", row)
        )

    async def set_vote_state(self, vote: Vote, state: str) -> None:
        """Move a vote on."""
        row = (state, vote.case_id, vote.round)
        await self._database.write(
            "vote-state",
            lambda connection: connection.execute("UPDATE votes SET state = ? WHERE case_id = ? AND round = ?", row),
        )

    def vote(self, case_id: int, round_number: int) -> Vote | None:
        """The vote of a round, if there is one."""
        rows = self._database.read("SELECT * FROM votes WHERE case_id = ? AND round = ?", (case_id, round_number))
        return Vote(*rows[0]) if rows else None

    def unfinished_votes(self) -> list[Vote]:
        """Votes not yet revealed or missed."""
        rows = self._database.read("SELECT * FROM votes WHERE state IN ('new', 'committed')")
        return [Vote(*row) for row in rows]

    async def record_challenge(self, challenge: OpenChallenge) -> None:
        """Write a challenge down as open, unless it is known; mined anew, its id may ask for another point."""
        if self.knows_challenge(challenge):
            return
        row = (challenge.id, challenge.commit_id, challenge.channel, amount_to_blob(challenge.point))
        await self._database.write(
            "challenge",
            lambda connection: connection.execute("INSERT OR REPLACE INTO challenges VALUES (?,?,?,?,'open')", row),
        )

    def knows_challenge(self, challenge: OpenChallenge) -> bool:
        """Whether a challenge was written down just so."""
        query = "SELECT 1 FROM challenges WHERE id = ? AND commit_id = ? AND channel = ? AND point = ?"
        row = (challenge.id, challenge.commit_id, challenge.channel, amount_to_blob(challenge.point))
        return bool(self._database.read(query, row))

    def is_open(self, challenge_id: bytes) -> bool:
        """Whether a challenge waits for its answer."""
        return bool(self._database.read("SELECT 1 FROM challenges WHERE id = ? AND state = 'open'", (challenge_id,)))

    async def close_challenge(self, challenge_id: bytes, state: str) -> None:
        """Remember what became of a challenge."""
        row = (state, challenge_id)
        await self._database.write(
            "challenge-state",
            lambda connection: connection.execute("UPDATE challenges SET state = ? WHERE id = ?", row),
        )

    def open_challenges(self) -> list[OpenChallenge]:
        """Challenges not yet answered."""
        rows = self._database.read("SELECT id, commit_id, channel, point FROM challenges WHERE state = 'open'")
        return [
            OpenChallenge(row["id"], row["commit_id"], row["channel"], blob_to_amount(row["point"])) for row in rows
        ]
