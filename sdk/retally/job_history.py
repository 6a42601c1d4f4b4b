"""The payer's own record of its jobs: what `retally jobs` and `retally receipt` show."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retally.errors import NotFound
from retally.job_result import JobResult
from retally.private_files import make_private
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS job (job_id TEXT PRIMARY KEY, at REAL NOT NULL, model TEXT, node TEXT, cost TEXT,"
    " passed INTEGER, content TEXT NOT NULL)"
)

_UPSERT = (
    "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET model = excluded.model,"
    " node = excluded.node, cost = excluded.cost, passed = excluded.passed, content = excluded.content"
    " WHERE json_extract(job.content, '$.request') IS json_extract(excluded.content, '$.request')"
)


class JobHistory:
    """Jobs by id, newest first; prompts and texts are deliberately not kept."""

    def __init__(self, path: Path) -> None:
        make_private(path)
        self._mutex = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(_SCHEMA)

    def record(self, result: JobResult) -> None:
        """Keeps a job as it stands; a row of another request is evidence, which no answer replaces."""
        if result.job_id is None:
            return
        content = result.to_json()
        row = (result.job_id, time.time(), result.model, result.node, str(result.cost), result.checks.passed)
        with self._mutex:
            self._db.execute(_UPSERT, (*row, json.dumps(content)))

    def add_receipts(self, job_id: str, leaves: Sequence[ReceiptLeaf], payment_error: str | None = None) -> None:
        """Adds receipts that came after the job had ended for us, and why they are not paid where they aren't."""
        with self._mutex:
            row = self._db.execute("SELECT content FROM job WHERE job_id = ?", (job_id,)).fetchone()
            if row is None:
                return
            content = json.loads(row[0])
            late = [{"receipt": leaf.receipt.to_wire(), "signature": to_hex(leaf.signature)} for leaf in leaves]
            content["receipts"] += [entry for entry in late if entry not in content["receipts"]]
            bills = (entry["receipt"] for entry in content["receipts"])
            content["cost"] = str(sum(int(bill["cumTo"]) - int(bill["cumFrom"]) for bill in bills))
            if payment_error is not None:
                content["paymentError"] = payment_error
            values = (content["cost"], json.dumps(content), job_id)
            self._db.execute("UPDATE job SET cost = ?, content = ? WHERE job_id = ?", values)

    def list(self, limit: int = 50) -> list[dict[str, Any]]:
        """The latest jobs, one short object each."""
        rows = self._db.execute(
            "SELECT job_id, at, model, node, cost, passed FROM job ORDER BY at DESC LIMIT ?", (limit,)
        ).fetchall()
        names = ("jobId", "at", "model", "node", "cost", "passed")
        return [{**dict(zip(names, row, strict=True)), "passed": bool(row[5])} for row in rows]

    def get(self, job_id: str) -> dict[str, Any]:
        """Everything kept of one job; a unique beginning of its id is enough."""
        pattern = job_id.lower().replace("%", "") + "%"
        rows = self._db.execute("SELECT content FROM job WHERE job_id LIKE ? LIMIT 2", (pattern,)).fetchall()
        if len(rows) != 1:
            raise NotFound(f"no job {job_id} in this history" if not rows else f"{job_id} fits several jobs")
        content: dict[str, Any] = json.loads(rows[0][0])
        return content

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
