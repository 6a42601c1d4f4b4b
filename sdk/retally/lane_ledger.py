"""A lane of one's own, durable: no two processes, and no two lives of one, ever promise the same money twice."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from retally.money_line import MoneyLine
from retally.protocol.encoding import Address

T = TypeVar("T")
_SCHEMA = "CREATE TABLE IF NOT EXISTS line (node TEXT PRIMARY KEY, state TEXT NOT NULL)"


class LaneLedger:
    """The money lines of one lane, in a file that one process at a time holds locked."""

    def __init__(self, lane: int, path: Path, lock: int) -> None:
        self.lane = lane
        self._lock_handle = lock
        self._mutex = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_SCHEMA)

    @classmethod
    def lease(cls, folder: Path) -> LaneLedger:
        """Takes the first lane in the folder that nobody holds, or a new one of random number."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(folder.glob("lane-*.lock")):
            lock = _try_lock(path)
            if lock is not None:
                return cls(int(path.stem.removeprefix("lane-")), path.with_suffix(".sqlite"), lock)
        while True:
            # Random: two machines with one key must not meet in one lane.
            lane = secrets.randbelow(1 << 32)
            path = folder / f"lane-{lane}.lock"
            lock = None if path.exists() else _try_lock(path)
            if lock is not None:
                return cls(lane, path.with_suffix(".sqlite"), lock)

    def update(self, node: Address, change: Callable[[MoneyLine], T]) -> T:
        """Changes one line; the change is on disk when this returns."""
        with self._mutex:
            line = self.line(node)
            result = change(line)
            self._db.execute("INSERT OR REPLACE INTO line VALUES (?, ?)", (node, json.dumps(line.to_json())))
            return result

    def line(self, node: Address) -> MoneyLine:
        """The line of one node as it stands."""
        with self._mutex:
            row = self._db.execute("SELECT state FROM line WHERE node = ?", (node,)).fetchone()
        return MoneyLine() if row is None else MoneyLine.from_json(json.loads(row[0]))

    def lines(self) -> Iterator[tuple[Address, MoneyLine]]:
        """Every line of this lane."""
        with self._mutex:
            rows = self._db.execute("SELECT node, state FROM line ORDER BY node").fetchall()
        for node, state in rows:
            yield Address(node), MoneyLine.from_json(json.loads(state))

    def close(self) -> None:
        """Gives the lane back."""
        with self._mutex:
            self._db.close()
            if self._lock_handle >= 0:
                os.close(self._lock_handle)
                self._lock_handle = -1


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
