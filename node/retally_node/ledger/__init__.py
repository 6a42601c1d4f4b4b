"""The node's books: nothing is sent before what it depends on is here."""

from __future__ import annotations

from pathlib import Path

from retally_node.ledger.commits import CommitLedger, CommittedRoot
from retally_node.ledger.database import Database
from retally_node.ledger.jobs import JobLedger
from retally_node.ledger.money import MoneyLedger, StoredReservation
from retally_node.ledger.votes import OpenChallenge, Vote, VoteLedger

__all__ = ["CommittedRoot", "Ledger", "OpenChallenge", "StoredReservation", "Vote"]


class Ledger:
    """One SQLite file seen as four books."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self.jobs = JobLedger(self._database)
        self.money = MoneyLedger(self._database)
        self.commits = CommitLedger(self._database)
        self.votes = VoteLedger(self._database)

    @property
    def broken(self) -> str | None:
        """What keeps the ledger from being written, if anything does."""
        return self._database.broken

    def close(self) -> None:
        """Finish queued changes and close the file."""
        self._database.close()
