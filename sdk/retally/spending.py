"""Limits that the payer sets itself: per client, and per day in a file that outlives the process."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from retally.errors import SpendingLimitExceeded
from retally.private_files import make_private

_SCHEMA = "CREATE TABLE IF NOT EXISTS spent (day TEXT, scope TEXT, amount TEXT, PRIMARY KEY (day, scope))"


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside for a job that runs; part of it may have been adrift at the same node before."""

    day: str
    amount: int
    channel: str = ""
    taken: int = 0


@dataclass(frozen=True, slots=True)
class _Adrift:
    """What a node holds a voucher for and did not serve, as far as we know."""

    day: str
    amount: int
    until: float


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if daily_limit is not None and daily is None:
            raise ValueError("a daily limit needs a file to remember it in")
        self.limit = limit
        self.daily_limit = daily_limit
        self._daily = daily
        self._scope = scope
        self._mutex = threading.Lock()
        self._clock = clock
        self._used = 0
        self._adrift: dict[str, _Adrift] = {}
        self._unproven: dict[str, Hold] = {}

    @property
    def used(self) -> int:
        """What this client spent, holds for jobs that run, or promised nodes that did not serve it yet."""
        with self._mutex:
            self._let_go()
            return self._used

    def hold(self, most: int, channel: str = "") -> Hold:
        """Sets aside the most that a job may cost, or raises SpendingLimitExceeded.

        What is adrift at the same node pays for the job too, so it counts once.
        """
        with self._mutex:
            self._let_go()
            adrift = self._adrift.get(channel)
            taken = 0 if adrift is None else min(adrift.amount, most)
            if self.limit is not None and self._used + most - taken > self.limit:
                raise SpendingLimitExceeded(self.limit, self._used - taken, most)
            day = self._daily.today if self._daily is not None else ""
            if adrift is not None and self._daily is not None:
                self._daily.add(self._scope, adrift.day, -taken)
            try:
                if self._daily is not None:
                    self._daily.add(self._scope, day, most, limit=self.daily_limit)
            except BaseException:
                if adrift is not None and self._daily is not None:
                    self._daily.add(self._scope, adrift.day, taken)
                raise
            if adrift is not None:
                self._adrift[channel] = replace(adrift, amount=adrift.amount - taken)
            self._used += most - taken
        return Hold(day, most, channel, taken)

    def settle(self, hold: Hold, cost: int, *, unproven: str | None = None) -> None:
        """Replaces a hold by what the job cost; a job named as unproven is corrected by its receipts."""
        with self._mutex:
            self._add(hold.day, cost - hold.amount)
            if unproven is not None:
                self._unproven[unproven] = replace(hold, amount=cost)

    def lose(self, hold: Hold, *, job: str, growth: int, surplus: int, seconds: float) -> None:
        """Replaces a hold by what the node keeps a voucher for: until it is used up, or the job can't be served."""
        self.settle(hold, 0, unproven=job)
        with self._mutex:
            before = self._adrift.get(hold.channel, _Adrift(hold.day, 0, 0))
            amount = min(before.amount + hold.taken + growth, surplus)
            self._set_adrift(hold.channel, replace(before, amount=amount, until=self._clock() + seconds))

    def check(self, more: int) -> None:
        """Raises SpendingLimitExceeded where that much more can't be promised."""
        with self._mutex:
            self._let_go()
            if self.limit is not None and more > 0 and self._used + more > self.limit:
                raise SpendingLimitExceeded(self.limit, self._used, more)
            spent = 0 if self._daily is None else self._daily.spent(self._scope)
            if self.daily_limit is not None and more > 0 and spent + more > self.daily_limit:
                raise SpendingLimitExceeded(self.daily_limit, spent, more)

    def add_cost(self, job: str, fee: int) -> None:
        """Books a late receipt of a lost job, in place of what was thought of it at first."""
        with self._mutex:
            hold = self._unproven.get(job)
            if hold is not None:
                self._add(hold.day, fee - hold.amount)
                self._unproven[job] = replace(hold, amount=0)

    def trim(self, channel: str, surplus: int) -> None:
        """No more is adrift at a node than it holds beyond what is owed to it."""
        with self._mutex:
            before = self._adrift.get(channel)
            if before is not None and before.amount > surplus:
                self._set_adrift(channel, replace(before, amount=max(0, surplus)))

    def book(self, cost: int) -> None:
        """Books a cost that nothing was held for; it counts against what follows."""
        with self._mutex:
            self._add(self._daily.today if self._daily is not None else "", cost)

    def _let_go(self) -> None:
        now = self._clock()
        for channel in [name for name, entry in self._adrift.items() if entry.until <= now]:
            self._set_adrift(channel, replace(self._adrift[channel], amount=0))

    def _set_adrift(self, channel: str, entry: _Adrift) -> None:
        before = self._adrift.pop(channel, None)
        self._add(entry.day, entry.amount - (0 if before is None else before.amount))
        if entry.amount > 0:
            self._adrift[channel] = entry

    def _add(self, day: str, amount: int) -> None:
        self._used += amount
        if self._daily is not None and amount:
            self._daily.add(self._scope, day, amount)
