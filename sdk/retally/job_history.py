"""The payer's own record of its jobs: what `retally jobs` and `retally receipt` show."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from retally.errors import NotFound
from retally.job_result import JobResult
from retally.private_files import make_private

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS job (job_id TEXT PRIMARY KEY, at REAL NOT NULL, model TEXT, node TEXT, cost TEXT,"
    " passed INTEGER, content TEXT NOT NULL)"
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
        """Keeps a finished job."""
        if result.job_id is None:
            return
        content = result.to_json()
        row = (result.job_id, time.time(), result.model, result.node, str(result.cost), result.checks.passed)
        with self._mutex:
            self._db.execute("INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, json.dumps(content)))

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
