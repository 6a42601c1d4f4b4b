"""Limits that the payer sets itself: per client, and per day in a file that outlives the process."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retally.errors import SpendingLimitExceeded
from retally.private_files import make_private

_SCHEMA = "CREATE TABLE IF NOT EXISTS spent (day TEXT, scope TEXT, amount TEXT, PRIMARY KEY (day, scope))"


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside for a job that runs."""

    day: str
    amount: int


class DailySpending:
    """What each scope (a payer, a key) spent per UTC day, shared by all processes of a home folder."""

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        make_private(path)
        self._wall_clock = wall_clock
        self._mutex = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_SCHEMA)

    @property
    def today(self) -> str:
        """The current UTC day."""
        return time.strftime("%Y-%m-%d", time.gmtime(self._wall_clock()))

    def spent(self, scope: str, day: str | None = None) -> int:
        """What was spent, or is held, on a day."""
        row = self._db.execute(
            "SELECT amount FROM spent WHERE day = ? AND scope = ?", (day or self.today, scope)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def add(self, scope: str, day: str, amount: int, *, limit: int | None = None) -> None:
        """Adds to a day, atomically against the limit; a negative amount gives back."""
        with self._mutex:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                before = self.spent(scope, day)
                if limit is not None and before + amount > limit:
                    raise SpendingLimitExceeded(limit, before, amount)
                self._db.execute("INSERT OR REPLACE INTO spent VALUES (?, ?, ?)", (day, scope, str(before + amount)))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


class SpendingGuard:
    """Holds the most that a job may cost, then books what it did cost."""

    def __init__(
        self,
        scope: str,
        *,
        limit: int | None = None,
        daily_limit: int | None = None,
        daily: DailySpending | None = None,
    ) -> None:
        if daily_limit is not None and daily is None:
            raise ValueError("a daily limit needs a file to remember it in")
        self.limit = limit
        self.daily_limit = daily_limit
        self._daily = daily
        self._scope = scope
        self._mutex = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """What this client spent, or holds for jobs that run."""
        return self._used

    def hold(self, most: int) -> Hold:
        """Sets aside the most that a job may cost, or raises SpendingLimitExceeded."""
        with self._mutex:
            if self.limit is not None and self._used + most > self.limit:
                raise SpendingLimitExceeded(self.limit, self._used, most)
            day = self._daily.today if self._daily is not None else ""
            if self._daily is not None:
                self._daily.add(self._scope, day, most, limit=self.daily_limit)
            self._used += most
        return Hold(day, most)

    def settle(self, hold: Hold, cost: int) -> None:
        """Replaces a hold by what the job cost."""
        with self._mutex:
            self._used += cost - hold.amount
            if self._daily is not None:
                self._daily.add(self._scope, hold.day, cost - hold.amount)

    def book(self, cost: int) -> None:
        """Books a cost that nothing was held for; it counts against what follows."""
        with self._mutex:
            self._used += cost
            if self._daily is not None:
                self._daily.add(self._scope, self._daily.today, cost)
