"""One SQLite file with one writing thread: changes queued in the same tick share one fsync."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from retally.crash_points import crash_point
from retally.errors import Conflict, Unavailable
from retally_node.ledger.schema import SCHEMA, SCHEMA_VERSION

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], T]

GROUP_LIMIT = 256


@dataclass(frozen=True, slots=True)
class _Queued:
    name: str
    change: Change[Any]
    done: Future[Any]
    is_vital: bool


_Outcome = tuple[_Queued, Any, BaseException | None]


class LedgerBroken(Unavailable):
    """A write failed: memory and disk no longer agree, and nothing may be signed until a restart."""

    code = "ledger_broken"
    hint = "free disk space, then restart the node"


class LedgerInUse(Conflict):
    """A second process on the same books would close what the first one has open, and bill it twice."""

    code = "data_dir_in_use"
    hint = "stop the other node first, or give this one a data_dir of its own"


class Database:
    """Durable storage: `write` returns once the change is on disk, in the order of the calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_handle = _lock(path)
        try:
            self._reader = _connect(path)
            _create(self._reader)
        except BaseException:
            self._unlock()
            raise
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self.broken: str | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def write(self, name: str, change: Change[T], *, is_vital: bool = False) -> T:
        """Apply a change durably; the name is its crash point. A vital one that is refused breaks the ledger."""
        # Shielded: a caller that is cancelled must not cancel what is already queued behind others' writes.
        return await asyncio.shield(asyncio.wrap_future(self._enqueue(name, change, is_vital)))

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Rows of a query over what is durable."""
        return self._reader.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Finish queued changes and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_handle >= 0:
            os.close(self._lock_handle)
            self._lock_handle = -1

    def _enqueue(self, name: str, change: Change[T], is_vital: bool) -> Future[T]:
        if self.broken is not None:
            raise _broken_by(self.broken)
        done: Future[T] = Future()
        self._queue.put(_Queued(name, change, done, is_vital))
        return done

    def _work(self) -> None:
        connection = _connect(self._path)
        while (first := self._queue.get()) is not None:
            group, more = self._drain(first)
            if self.broken is None:
                # Known before anybody hears of the failure, so that nobody writes after it.
                outcomes, self.broken = _commit_group(connection, group)
            else:
                # Queued before the failure was known: it counts on what was lost, and committed it would leave a gap.
                outcomes = _all_failed(group, self.broken)
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


def _lock(path: Path) -> int:
    """Hold the file beside the ledger that one process at a time may hold; it is free again when that one dies."""
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise LedgerInUse(f"another node runs on this data_dir: {path.parent}") from error
    except BaseException:
        os.close(handle)
        raise
    return handle


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
    except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait for an answer that never comes
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        broken = str(error) or type(error).__name__
        return _all_failed(group, broken), broken
    return outcomes, None


def _all_failed(group: list[_Queued], broken: str) -> list[_Outcome]:
    return [(queued, None, _broken_by(broken)) for queued in group]


def _broken_by(reason: str) -> LedgerBroken:
    return LedgerBroken(f"the ledger can't be written: {reason}")


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
    except Exception as error:
        # A full disk or a torn file is no refusal of one change: nothing of the group can be trusted. Nor can what
        # memory holds once a vital change is refused, and the changes behind it were made from that.
        if queued.is_vital or (isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError)):
            raise
        connection.execute("ROLLBACK TO change")
        connection.execute("RELEASE change")
        return None, error
    connection.execute("RELEASE change")
    return result, None
