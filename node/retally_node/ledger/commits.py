"""Commits in the ledger: which receipts lie under which root, and which commit ids carry it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from retally.protocol.case import CommitRecord, Range, pack_ranges, unpack_ranges
from retally_node.channels import Channel
from retally_node.ledger.database import Database
from retally_node.ledger.money import save_channel
from retally_node.ledger.schema import amount_to_blob, blob_to_amount

#: Blocks below a mark that are read again: they may be replaced by others, or an RPC may show their logs late.
REREAD_BLOCKS = 128


@dataclass(frozen=True, slots=True)
class CommittedRoot:
    """A commit of ours as the chain has it."""

    record: CommitRecord
    ranges: tuple[Range, ...]
    paid: int
    block: int


class CommitLedger:
    """Roots prepared before they are sent, commits as they were mined."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prepare_root(self, root: bytes, digests: Sequence[bytes], now: int) -> None:
        """Write the leaves of a root before the transaction that carries it."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO roots VALUES (?,?,?)", (root, now, len(digests)))
            connection.executemany(
                "INSERT OR IGNORE INTO leaves VALUES (?,?,?)",
                [(root, position, digest) for position, digest in enumerate(digests)],
            )

        await self._database.write("root", change)

    async def forget_commits(self, commits: Sequence[CommittedRoot]) -> None:
        """Strike out commits that the chain no longer has."""
        rows = [(commit.record.id, commit.record.receipts_root) for commit in commits]
        await self._database.write(
            "forget", lambda connection: connection.executemany("DELETE FROM commits WHERE id = ? AND root = ?", rows)
        )

    async def record_commit(self, commit: CommittedRoot, channels: Sequence[Channel], next_block: int) -> None:
        """Write a mined commit with what it collected and how far the chain was read."""
        rows = [save_channel(channel) for channel in channels]
        record = commit.record

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO commits VALUES (?,?,?,?,?,?)",
                (
                    record.id,
                    record.receipts_root,
                    json.dumps(record.to_wire()),
                    pack_ranges(commit.ranges),
                    amount_to_blob(commit.paid),
                    commit.block,
                ),
            )
            for row in rows:
                row(connection)
            _set_mark(connection, "commits", next_block)

        await self._database.write("commit", change)

    def commit(self, commit_id: int) -> CommittedRoot | None:
        """A mined commit."""
        rows = self._database.read("SELECT * FROM commits WHERE id = ?", (commit_id,))
        return _commit(rows[0]) if rows else None

    def commits(self) -> list[CommittedRoot]:
        """All mined commits."""
        return [_commit(row) for row in self._database.read("SELECT * FROM commits ORDER BY id")]

    def commits_since(self, block: int) -> list[CommittedRoot]:
        """Those that were mined in a block or after it."""
        rows = self._database.read("SELECT * FROM commits WHERE block >= ? ORDER BY id", (block,))
        return [_commit(row) for row in rows]

    def commits_with(self, digest: bytes) -> list[CommittedRoot]:
        """The mined commits whose root holds a receipt."""
        query = "SELECT commits.* FROM commits JOIN leaves USING (root) WHERE leaves.digest = ? ORDER BY id"
        return [_commit(row) for row in self._database.read(query, (digest,))]

    def leaves(self, root: bytes) -> list[bytes]:
        """The receipt digests under a root, in order."""
        rows = self._database.read("SELECT digest FROM leaves WHERE root = ? ORDER BY position", (root,))
        return [row["digest"] for row in rows]

    async def set_mark(self, name: str, value: int) -> None:
        """Remember how far a loop has read the chain."""
        await self._database.write("mark", lambda connection: _set_mark(connection, name, value))

    def mark(self, name: str, default: int) -> int:
        """How far a loop has read the chain."""
        rows = self._database.read("SELECT value FROM marks WHERE name = ?", (name,))
        return int(rows[0]["value"]) if rows else default

    def reread_from(self, name: str, deployed_block: int) -> int:
        """Where a loop reads on: some blocks below its mark, since what it saw of them may not be the last word."""
        return max(deployed_block, self.mark(name, deployed_block) - REREAD_BLOCKS)


def _set_mark(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute(
        "INSERT INTO marks VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        (name, value),
    )


def _commit(row: sqlite3.Row) -> CommittedRoot:
    return CommittedRoot(
        record=CommitRecord.from_wire(json.loads(row["body"])),
        ranges=unpack_ranges(row["ranges"]),
        paid=blob_to_amount(row["paid"]),
        block=row["block"],
    )
