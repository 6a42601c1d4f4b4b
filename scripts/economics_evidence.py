"""How much evidence one audited job gives: from a file of measured jobs, or of published shares.

{"version": 1, "source": "measured" | "assumed", "about": text, "tokensPerJob": n, "jobs": {cheat: entry}}. An entry is
{"logE": [...]}, one item a job: its log e in nats, or the list of its re-executors' (R-35 takes the least); or
{"atoms": [[log e, share], …]}, where only shares are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retally.protocol.calibration import Calibration
from retally.protocol.evidence import JOB_CLIP, JOB_MISMATCH, combine, margin_log_e
from retally.protocol.margins import CLIP

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "docs" / "data" / "job_evidence.json"
ASSUMED = ROOT / "docs" / "data" / "job_evidence_assumed.json"
CALIBRATIONS = ROOT / "sdk" / "retally" / "devnet" / "calibrations"


class BadEvidence(ValueError):
    """A file of job evidence that says no distribution."""


@dataclass(frozen=True, slots=True)
class JobLogEs:
    """The distribution of a cheat's log e per audited job."""

    values: NDArray[np.float64]
    shares: NDArray[np.float64]

    def strongest(self, rng: np.random.Generator, count: int, most: int) -> list[float]:
        """The strongest of so many jobs; `values` fall."""
        counts = rng.multinomial(count, self.shares)
        found: list[float] = []
        for value, times in zip(self.values, counts, strict=True):
            found += [float(value)] * min(int(times), most - len(found))
            if len(found) == most:
                break
        return found

    @property
    def mean(self) -> float:
        """Nats a job."""
        return float(self.values @ self.shares)

    @property
    def caught(self) -> float:
        """The share of jobs that are a mismatch by themselves."""
        return float(self.shares[self.values >= min(JOB_MISMATCH, 9.2)].sum())


@dataclass(frozen=True, slots=True)
class Evidence:
    """All cheats' distributions, and where they come from."""

    source: str
    about: str
    tokens: int
    jobs: Mapping[str, JobLogEs]


def load(path: Path | None) -> Evidence:
    """The file asked for, else the measured one if there is one, else the assumed one; what it lacks is assumed."""
    chosen = path or (MEASURED if MEASURED.exists() else ASSUMED)
    data, assumed = _read(chosen), _read(ASSUMED)
    lacking = sorted(set(assumed["jobs"]) - set(data["jobs"]))
    jobs = {**{name: assumed["jobs"][name] for name in lacking}, **data["jobs"]}
    about = str(data["about"]) + (f" Assumed instead: {', '.join(lacking)}." if lacking else "")
    parsed = {name: distribution(entry) for name, entry in jobs.items()}
    return Evidence(str(data["source"]), about, int(data["tokensPerJob"]), parsed)


def distribution(entry: Mapping[str, Any]) -> JobLogEs:
    """The distribution of an entry; every job is clipped as R-35 says."""
    if "logE" in entry:
        values = [combine(item) if isinstance(item, list) else float(item) for item in entry["logE"]]
        shares = [1 / max(1, len(values))] * len(values)
    else:
        values, shares = [float(value) for value, _ in entry["atoms"]], [float(share) for _, share in entry["atoms"]]
    if not values or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise BadEvidence(f"shares must be positive and sum to one: {shares[:5]}")
    order = np.argsort(-np.array(values), kind="stable")
    return JobLogEs(np.minimum(JOB_CLIP, np.array(values))[order], np.array(shares)[order] / sum(shares))


def one_token(tokens: int) -> float:
    """log e of a job with one spliced token under the calibration that the devnet ships."""
    paths = sorted(CALIBRATIONS.glob("*.json"))
    tables = [Calibration.from_json(json.loads(path.read_text(encoding="utf-8"))).tables for path in paths]
    margins = np.zeros(tokens)
    margins[-1] = CLIP
    return max(margin_log_e(margins, table) for found in tables for table in found.values())


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if data.get("version") != 1 or data.get("source") not in ("measured", "assumed"):
        raise BadEvidence(f"{path}: another version, or a source that is neither measured nor assumed")
    return data
