"""What is measured, in files named by the hash of all that determines them: a run that was cut short goes on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from retally.errors import RetallyError
from retally_verifier.calibration_tables import Margins

#: Raised whenever the way of measuring changes.
VERSION = 1


class ShardNotKept(RetallyError):
    """A measured shard can't be written; those before it are kept."""

    code = "shard_not_kept"

    def __init__(self, folder: Path, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"make room under {folder}, or pass another folder with --shards" if full else None
        super().__init__(
            f"the disk under {folder} is full" if full else f"{folder} can't be written: {error.strerror}",
            hint=(hint or f"make {folder} writable") + "; then run the same command again: what is measured is kept",
        )
        self.folder = folder


class Shards:
    """A folder of shards; files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, kind: str, determined_by: object) -> str:
        """The name of a shard."""
        text = json.dumps([VERSION, kind, determined_by], sort_keys=True, separators=(",", ":"))
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def has(self, name: str) -> bool:
        """Whether a shard is there."""
        return (self.folder / name).exists()

    def answers(self, name: str) -> list[tuple[int, ...]]:
        """The token ids of a list of jobs."""
        return [tuple(ids) for ids in json.loads((self.folder / name).read_bytes())]

    def put_answers(self, name: str, answers: Sequence[Sequence[int]]) -> None:
        """Keeps the token ids of a list of jobs."""
        self._write(name, [list(map(int, ids)) for ids in answers])

    def margins(self, name: str) -> list[Margins]:
        """The margins of a list of answers under one re-executor."""
        found = []
        for row in json.loads((self.folder / name).read_bytes()):
            margins = np.zeros(row["tokens"])
            margins[row["at"]] = row["margins"]
            found.append(margins)
        return found

    def put_margins(self, name: str, jobs: Sequence[Margins]) -> None:
        """Keeps margins; nearly all are zero, so only the others are written."""
        rows = [
            {"tokens": len(job), "at": np.flatnonzero(job).tolist(), "margins": [float(m) for m in job[job != 0]]}
            for job in jobs
        ]
        self._write(name, rows)

    def _write(self, name: str, content: Any) -> None:
        write_whole(self.folder / name, json.dumps(content, separators=(",", ":")))


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all; raises ShardNotKept where it can't."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ShardNotKept(path.parent, error) from error
