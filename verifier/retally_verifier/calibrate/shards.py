"""What is measured, in files named by the hash of all that determines them: a run that was cut short goes on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retally.errors import RetallyError
from retally_verifier.calibrate.canaries import Answer
from retally_verifier.calibration_bounds import Margins

#: Raised whenever the way of measuring changes.
VERSION = 3


@dataclass(frozen=True, slots=True)
class Replay:
    """One answer under one re-executor."""

    margins: Margins
    #: The largest difference between the node's logprobs and the re-executor's, nats; none where they are not known.
    noise: float | None


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

    def answers(self, name: str) -> list[Answer]:
        """The answers to a list of jobs."""
        rows = json.loads((self.folder / name).read_bytes())
        return [Answer(tuple(ids), None if logprobs is None else tuple(logprobs)) for ids, logprobs in rows]

    def put_answers(self, name: str, answers: Sequence[Answer]) -> None:
        """Keeps the answers to a list of jobs."""
        rows = [[each.ids, None if each.logprobs is None else list(map(float, each.logprobs))] for each in answers]
        self._write(name, rows)

    def replays(self, name: str) -> list[Replay]:
        """The replays of a list of answers by one re-executor."""
        found = []
        for row in json.loads((self.folder / name).read_bytes()):
            margins = np.zeros(row["tokens"])
            margins[row["at"]] = row["margins"]
            found.append(Replay(margins, row["noise"]))
        return found

    def put_replays(self, name: str, replays: Sequence[Replay]) -> None:
        """Keeps replays; nearly all margins are zero, so only the others are written."""
        rows = [
            {
                "tokens": len(each.margins),
                "at": np.flatnonzero(each.margins).tolist(),
                "margins": [float(m) for m in each.margins[each.margins != 0]],
                "noise": each.noise,
            }
            for each in replays
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
