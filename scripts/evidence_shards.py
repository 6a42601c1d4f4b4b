"""Shards of a measurement: files named by the hash of all that determines them, so that a run can go on anywhere.

An answer shard holds the token ids of a list of jobs; a replay shard holds each token's margin and logprob under one
re-executor. What differs in model, set-up, jobs or `VERSION` has another name and is measured anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retally.protocol.params import JobParams

Floats = NDArray[np.float64]

#: Raised whenever the way of measuring changes.
VERSION = 1
#: Raised whenever R-34 changes: answers are kept, and each replay is made anew.
MARGINS = 2
FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "evidence"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its payer signed it."""

    prompt_ids: tuple[int, ...]
    params: JobParams
    seed: bytes

    def to_json(self) -> list[Any]:
        """What of it names a shard; a free answer's form does not, so that older shards keep their names."""
        params = self.params.to_json()
        if not self.params.has_form:
            params = {name: value for name, value in params.items() if name not in ("responseFormat", "toolChoice")}
        return [list(self.prompt_ids), params, self.seed.hex()]


@dataclass(frozen=True, slots=True)
class Segment:
    """What a node really ran for a job: a cheat runs another job, or only part of it, and fills in the rest."""

    job: Job
    #: Tokens that the node claims without having sampled them; they stand before what it samples.
    given: tuple[int, ...] = ()
    #: Nothing is sampled at all: the given tokens are the answer.
    is_whole: bool = False

    def to_json(self) -> list[Any]:
        """What of it names a shard."""
        return [self.job.to_json(), list(self.given), self.is_whole]


@dataclass(frozen=True, slots=True)
class Replay:
    """One job's tokens under one re-executor."""

    #: Robust margins, nats, one a token.
    margins: Floats
    #: Raw logprobs of the claimed tokens, nats.
    logprobs: Floats


class Shards:
    """The folder of shards; files appear whole or not at all."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def path(self, kind: str, determined_by: object) -> Path:
        """Where a shard lies."""
        text = json.dumps([VERSION, kind, determined_by], sort_keys=True, separators=(",", ":"))
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def save_answers(self, path: Path, answers: Sequence[Sequence[int]]) -> None:
        """Write the token ids of a list of jobs."""
        self._write(path, json.dumps([list(map(int, ids)) for ids in answers], separators=(",", ":")).encode())

    def load_answers(self, path: Path) -> list[tuple[int, ...]]:
        """Read them."""
        return [tuple(ids) for ids in json.loads(path.read_bytes())]

    def save_replays(self, path: Path, replays: Sequence[Replay]) -> None:
        """Write margins and logprobs; nearly all margins are zero, so only the others are kept."""
        rows = [
            {
                "tokens": len(each.margins),
                "at": np.flatnonzero(each.margins).tolist(),
                "margins": [float(f"{value:.6g}") for value in each.margins[each.margins != 0]],
                "logprobs": [float(f"{value:.7g}") for value in each.logprobs],
            }
            for each in replays
        ]
        self._write(path, json.dumps(rows, separators=(",", ":")).encode())

    def load_replays(self, path: Path) -> list[Replay]:
        """Read them."""
        found = []
        for row in json.loads(path.read_bytes()):
            margins = np.zeros(row["tokens"])
            margins[row["at"]] = row["margins"]
            found.append(Replay(margins, np.array(row["logprobs"], dtype=np.float64)))
        return found

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)
