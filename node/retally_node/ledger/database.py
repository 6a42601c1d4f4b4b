"""One SQLite file with one writing thread: changes queued in the same tick share one fsync."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from retally.crash_points import crash_point
from retally.errors import Unavailable
from retally_node.ledger.schema import SCHEMA, SCHEMA_VERSION

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], T]

GROUP_LIMIT = 256


@dataclass(frozen=True, slots=True)
class _Queued:
    name: str
    change: Change[Any]
    done: Future[Any]


_Outcome = tuple[_Queued, Any, BaseException | None]


class LedgerBroken(Unavailable):
    """A write failed: memory and disk no longer agree, and nothing may be signed until a restart."""

    code = "ledger_broken"
    hint = "free disk space, then restart the node"


class Database:
    """Durable storage: `write` returns once the change is on disk, in the order of the calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._reader = _connect(path)
        _create(self._reader)
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self.broken: str | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def write(self, name: str, change: Change[T]) -> T:
        """Apply a change durably; the name is its crash point."""
        # Shielded: a caller that is cancelled must not cancel what is already queued behind others' writes.
        return await asyncio.shield(asyncio.wrap_future(self._enqueue(name, change)))

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Rows of a query over what is durable."""
        return self._reader.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Finish queued changes and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._reader.close()

    def _enqueue(self, name: str, change: Change[T]) -> Future[T]:
        if self.broken is not None:
            raise LedgerBroken(f"the ledger can't be written: {self.broken}")
        done: Future[T] = Future()
        self._queue.put(_Queued(name, change, done))
        return done

    def _work(self) -> None:
        connection = _connect(self._path)
        while (first := self._queue.get()) is not None:
            group, more = self._drain(first)
            outcomes, broken = _commit_group(connection, group)
            # Known before anybody hears of the failure, so that nobody writes after it.
            self.broken = self.broken or broken
            _tell(outcomes)
            if not more:
                break
        connection.close()

    def _drain(self, first: _Queued) -> tuple[list[_Queued], bool]:
        group = [first]
        while len(group) < GROUP_LIMIT:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return group, True
            if following is None:
                return group, False
            group.append(following)
        return group, True


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    # WAL's default of NORMAL may lose the last commits in a power cut; vouchers are money.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _create(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise RuntimeError(f"this ledger has schema {version}; this node reads schema {SCHEMA_VERSION}")
    connection.executescript(SCHEMA)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _commit_group(connection: sqlite3.Connection, group: list[_Queued]) -> tuple[list[_Outcome], str | None]:
    """Apply and commit all of them; say what became of each, and what broke if the disk did."""
    outcomes: list[_Outcome] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for queued in group:
            crash_point(f"before:{queued.name}")
            outcomes.append((queued, *_apply(connection, queued)))
            crash_point(f"inside:{queued.name}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        failure = LedgerBroken(f"the ledger can't be written: {error}")
        return [(queued, None, failure) for queued in group], str(error)
    return outcomes, None


def _tell(outcomes: list[_Outcome]) -> None:
    for queued, result, failure in outcomes:
        crash_point(f"after:{queued.name}")
        if failure is None:
            queued.done.set_result(result)
        else:
            queued.done.set_exception(failure)


def _apply(connection: sqlite3.Connection, queued: _Queued) -> tuple[Any, BaseException | None]:
    """Each change is its own savepoint, so that one refused does not undo its neighbours."""
    connection.execute("SAVEPOINT change")
    try:
        result = queued.change(connection)
    except sqlite3.OperationalError:
        # A full or failing disk is no refusal of one change: nothing of the group can be trusted.
        raise
    except Exception as error:  # noqa: BLE001  whatever it is goes to the caller through its future
        connection.execute("ROLLBACK TO change")
        connection.execute("RELEASE change")
        return None, error
    connection.execute("RELEASE change")
    return result, None
