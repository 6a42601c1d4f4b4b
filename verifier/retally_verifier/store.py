"""The verifier's books: one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retally.crash_points import crash_point
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32
from retally_verifier.records import (
    AuditedCommit,
    CaseRecord,
    ChallengeRecord,
    CommitState,
    Finding,
    FindingState,
    Freeze,
    NodeRecord,
    Pair,
    ReplayRow,
)
from retally_verifier.store_rows import case_of, commit_of, finding_of, freeze_of, node_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (node TEXT PRIMARY KEY, owner TEXT NOT NULL, model BLOB NOT NULL,
  profile BLOB NOT NULL, endpoint TEXT NOT NULL, revoked INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS commits (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, time INTEGER NOT NULL,
  record TEXT NOT NULL, ranges BLOB NOT NULL, state TEXT NOT NULL, seed BLOB, verdicts BLOB, salt BLOB) STRICT;
CREATE TABLE IF NOT EXISTS findings (commit_id INTEGER NOT NULL, range_index INTEGER NOT NULL, k TEXT NOT NULL,
  channel BLOB NOT NULL, point TEXT NOT NULL, owner TEXT NOT NULL, node TEXT NOT NULL, payer TEXT NOT NULL,
  time INTEGER NOT NULL, state TEXT NOT NULL, verdict INTEGER NOT NULL, log_e REAL NOT NULL, receipt BLOB,
  fee TEXT NOT NULL, answer BLOB, detail TEXT NOT NULL, PRIMARY KEY (commit_id, range_index, k)) STRICT;
CREATE INDEX IF NOT EXISTS findings_by_owner ON findings (owner, time);
CREATE INDEX IF NOT EXISTS findings_by_receipt ON findings (receipt);
CREATE TABLE IF NOT EXISTS cases (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, challenger TEXT NOT NULL,
  evidence BLOB NOT NULL, shown BLOB NOT NULL, closed INTEGER NOT NULL, verdict INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evidence (hash BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS challenges (id BLOB PRIMARY KEY, commit_id INTEGER NOT NULL, range_index INTEGER NOT NULL,
  k TEXT NOT NULL, closed INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS lanes (node TEXT PRIMARY KEY, cumulative TEXT NOT NULL, owed TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS freezes (model BLOB NOT NULL, node_profile BLOB NOT NULL, verifier_profile BLOB NOT NULL,
  since INTEGER NOT NULL, until INTEGER NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (model, node_profile, verifier_profile, since)) STRICT;
"""
_FINDING = (
    "commit_id, range_index, k, channel, point, owner, node, payer, time, state, verdict, log_e, receipt, fee, "
    "answer, detail"
)


class Store:
    """Reads and writes the books; every write is durable before it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        """All writes inside happen, or none; the name is that of its crash points."""
        crash_point(f"before:{name}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        crash_point(f"inside:{name}")
        self._db.execute("COMMIT")
        crash_point(f"after:{name}")

    def _write(self, name: str, query: str, values: tuple[Any, ...]) -> None:
        """One named write, of its own or as part of the transaction under way."""
        if self._db.in_transaction:
            self._db.execute(query, values)
            crash_point(f"inside:{name}")
            return
        with self.transaction(name):
            self._db.execute(query, values)

    def cursor(self) -> int | None:
        """The last block whose events were handled."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'block'").fetchone()
        return None if row is None else int(row[0])

    def set_cursor(self, block: int) -> None:
        """Remembers up to which block events were handled."""
        self._write("cursor", "INSERT OR REPLACE INTO meta VALUES ('block', ?)", (str(block),))

    def put_node(self, node: NodeRecord) -> None:
        """Keeps a node's entry."""
        values = (node.node, node.owner, node.model_id, node.profile_id, node.endpoint, int(node.revoked))
        self._write("node", "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?)", values)

    def revoke_node(self, node: Address) -> None:
        """Notes that a node has ended; it still answers for what it committed."""
        self._write("revoke", "UPDATE nodes SET revoked = 1 WHERE node = ?", (node,))

    def node(self, node: Address) -> NodeRecord | None:
        """A node's entry."""
        row = self._db.execute("SELECT * FROM nodes WHERE node = ?", (node,)).fetchone()
        return None if row is None else node_of(row)

    def live_nodes(self, model_id: bytes) -> list[NodeRecord]:
        """All nodes that serve a model."""
        rows = self._db.execute("SELECT * FROM nodes WHERE model = ? AND revoked = 0 ORDER BY node", (model_id,))
        return [node_of(row) for row in rows]

    def add_commit(self, record: CommitRecord, packed_ranges: bytes) -> None:
        """Keeps a new commit."""
        values = (record.id, record.owner, record.time, json.dumps(record.to_wire()), packed_ranges, CommitState.SEEN)
        self._write(
            "commit",
            "INSERT OR IGNORE INTO commits (id, owner, time, record, ranges, state) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )

    def commits(self, *states: CommitState) -> list[AuditedCommit]:
        """Commits in these states, oldest first."""
        marks = ", ".join("?" for _ in states)
        query = f"SELECT record, ranges, state, seed, verdicts, salt FROM commits WHERE state IN ({marks}) ORDER BY id"
        return [commit_of(row) for row in self._db.execute(query, states)]

    def commit(self, commit_id: int) -> AuditedCommit | None:
        """A commit."""
        query = "SELECT record, ranges, state, seed, verdicts, salt FROM commits WHERE id = ?"
        row = self._db.execute(query, (commit_id,)).fetchone()
        return None if row is None else commit_of(row)

    def commits_of(self, owner: Address, since: int) -> list[AuditedCommit]:
        """An owner's commits from a time on."""
        query = (
            "SELECT record, ranges, state, seed, verdicts, salt FROM commits WHERE owner = ? AND time >= ? ORDER BY id"
        )
        return [commit_of(row) for row in self._db.execute(query, (owner, since))]

    def set_seed(self, commit_id: int, seed: bytes) -> None:
        """Keeps the seed of a commit."""
        self._write(
            "seed",
            "UPDATE commits SET seed = ?, state = ? WHERE id = ? AND state = ?",
            (seed, CommitState.SEEDED, commit_id, CommitState.SEEN),
        )

    def set_state(self, commit_id: int, state: CommitState) -> None:
        """Moves a commit on."""
        self._write(state.value, "UPDATE commits SET state = ? WHERE id = ?", (state, commit_id))

    def set_verdicts(self, commit_id: int, verdicts: bytes, salt: bytes) -> None:
        """Keeps what will be revealed, before its hash is committed."""
        self._write("verdicts", "UPDATE commits SET verdicts = ?, salt = ? WHERE id = ?", (verdicts, salt, commit_id))

    def put_finding(self, f: Finding) -> None:
        """Keeps a finding; a later one of the same point replaces it."""
        values: tuple[Any, ...] = (f.commit_id, f.range_index, str(f.k), f.channel, str(f.point), f.owner, f.node)
        values += (f.payer, f.time, f.state, f.verdict, f.log_e, f.receipt_digest, str(f.fee), f.answer)
        marks = ", ".join("?" * 16)
        query = f"INSERT OR REPLACE INTO findings ({_FINDING}) VALUES ({marks})"
        self._write("finding", query, (*values, json.dumps(f.detail)))

    def findings_of_commit(self, commit_id: int) -> list[Finding]:
        """A commit's findings in (range, k) order."""
        rows = self._db.execute(f"SELECT {_FINDING} FROM findings WHERE commit_id = ?", (commit_id,))
        return sorted((finding_of(row) for row in rows), key=lambda found: (found.range_index, found.k))

    def findings_of_owner(self, owner: Address, since: int) -> list[Finding]:
        """An owner's findings from a time on."""
        rows = self._db.execute(f"SELECT {_FINDING} FROM findings WHERE owner = ? AND time >= ?", (owner, since))
        return [finding_of(row) for row in rows]

    def finding_of_receipt(self, digest: bytes) -> Finding | None:
        """A finding on that receipt: one that covers two points is replayed once."""
        query = f"SELECT {_FINDING} FROM findings WHERE receipt = ? AND state != ? LIMIT 1"
        row = self._db.execute(query, (digest, FindingState.UNREPLAYED)).fetchone()
        return None if row is None else finding_of(row)

    def replays(self, since: int) -> list[ReplayRow]:
        """What replays said of owners from a time on, oldest first; a receipt that covers several points once."""
        query = (
            "SELECT owner, time, detail FROM findings WHERE time >= ? AND state = ? GROUP BY receipt "
            "ORDER BY commit_id, range_index, k"
        )
        rows = self._db.execute(query, (since, FindingState.REPLAYED))
        return [ReplayRow(Address(row[0]), row[1], json.loads(row[2])) for row in rows]

    def put_freeze(self, freeze: Freeze) -> None:
        """Keeps that a pair is held back."""
        pair = freeze.pair
        values = (pair.model_id, pair.node_profile, pair.verifier_profile, freeze.since, freeze.until, freeze.reason)
        self._write("freeze", "INSERT OR REPLACE INTO freezes VALUES (?, ?, ?, ?, ?, ?)", values)

    def freezes(self) -> list[Freeze]:
        """All freezes there ever were, oldest first."""
        return [freeze_of(row) for row in self._db.execute("SELECT * FROM freezes ORDER BY since")]

    def frozen_pairs(self, now: int) -> frozenset[Pair]:
        """The pairs that are held back now."""
        return frozenset(freeze.pair for freeze in self.freezes() if freeze.since <= now < freeze.until)

    def findings_of_receipt(self, digest: bytes) -> list[Finding]:
        """All findings on that receipt: one that covers two points has two."""
        rows = self._db.execute(f"SELECT {_FINDING} FROM findings WHERE receipt = ?", (digest,))
        return [finding_of(row) for row in rows]

    def silent_findings(self) -> list[Finding]:
        """Points that a node did not answer."""
        rows = self._db.execute(f"SELECT {_FINDING} FROM findings WHERE state = ?", (FindingState.SILENT,))
        return [finding_of(row) for row in rows]

    def findings(self, limit: int = 100) -> list[Finding]:
        """The latest findings."""
        rows = self._db.execute(f"SELECT {_FINDING} FROM findings ORDER BY commit_id DESC, k DESC LIMIT ?", (limit,))
        return [finding_of(row) for row in rows]

    def owners(self, since: int) -> list[Address]:
        """Owners with findings from a time on."""
        rows = self._db.execute("SELECT DISTINCT owner FROM findings WHERE time >= ? ORDER BY owner", (since,))
        return [Address(row[0]) for row in rows]

    def put_case(self, case: CaseRecord) -> None:
        """Keeps a case."""
        values = (case.id, case.owner, case.challenger, case.evidence_hash, case.shown, int(case.closed), case.verdict)
        self._write("case", "INSERT OR REPLACE INTO cases VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def close_case(self, case_id: int, verdict: int) -> None:
        """Notes how a case ended."""
        self._write("close", "UPDATE cases SET closed = 1, verdict = ? WHERE id = ?", (verdict, case_id))

    def cases(self) -> list[CaseRecord]:
        """All cases seen."""
        return [case_of(row) for row in self._db.execute("SELECT * FROM cases ORDER BY id")]

    def put_evidence(self, hash_: bytes, data: bytes) -> None:
        """Keeps an evidence file."""
        self._write("evidence", "INSERT OR IGNORE INTO evidence VALUES (?, ?)", (hash_, data))

    def evidence(self, hash_: bytes) -> bytes | None:
        """An evidence file."""
        row = self._db.execute("SELECT data FROM evidence WHERE hash = ?", (hash_,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_challenge(self, challenge: ChallengeRecord) -> None:
        """Keeps a challenge."""
        values = (challenge.id, challenge.commit_id, challenge.range_index, str(challenge.k), int(challenge.closed))
        self._write("challenge", "INSERT OR REPLACE INTO challenges VALUES (?, ?, ?, ?, ?)", values)

    def challenges(self) -> list[ChallengeRecord]:
        """All challenges of this verifier."""
        rows = self._db.execute("SELECT * FROM challenges")
        return [ChallengeRecord(Bytes32(row[0]), row[1], row[2], int(row[3]), bool(row[4])) for row in rows]

    def lane(self, node: Address) -> tuple[int, int]:
        """What was promised to a node, and what of it receipts have used."""
        row = self._db.execute("SELECT cumulative, owed FROM lanes WHERE node = ?", (node,)).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def set_lane(self, node: Address, cumulative: int, owed: int) -> None:
        """Keeps what was promised, before the voucher is sent."""
        self._write("lane", "INSERT OR REPLACE INTO lanes VALUES (?, ?, ?)", (node, str(cumulative), str(owed)))
