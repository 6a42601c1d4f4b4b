"""Owners drawn from measured jobs: how far honest ones come, and how many audits convict a cheat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from economics_conviction import convicts, wealth_of
from retally.protocol.evidence import LAMBDAS, OWNER_MISMATCH
from retally.protocol.evidence_file import MAX_POINTS

Floats = NDArray[np.float64]

RATES = (1.0, 1 / 5, 1 / 20, 1 / 100)
AUDITS = 3_000
#: Whoever is not convicted within so many audits counts as never convicted.
MOST_AUDITS = 20_000
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Honest:
    """What a crowd of honest owners reached at any moment of their audits."""

    owners: int
    audits: int
    #: log of the largest wealth of any.
    largest: float
    #: How many reached 1e9.
    convicted: int


def honest_owners(log_es: Floats, owners: int, seed: int, audits: int = AUDITS) -> Honest:
    """Owners whose every audited job is shown and another payer's: nothing that a case could leave out or cap."""
    rng = np.random.default_rng(seed)
    largest, convicted = -np.inf, 0
    for first in range(0, owners, _AT_ONCE):
        drawn = rng.choice(log_es, size=(min(_AT_ONCE, owners - first), audits))
        peaks = wealth_paths(drawn).max(axis=1)
        largest = max(largest, float(peaks.max()))
        convicted += int((peaks >= OWNER_MISMATCH).sum())
    return Honest(owners, audits, largest, convicted)


def wealth_paths(log_es: Floats) -> Floats:
    """log wealth (R-36) of each row's owner after each job; the protocol's `owner_wealth_log`, many at once."""
    paths = [np.cumsum(np.log1p(bet * np.expm1(log_es)), axis=1) for bet in LAMBDAS]
    peak: Floats = np.maximum.reduce(paths)
    summed = sum(np.exp(path - peak) for path in paths)
    result: Floats = peak + np.log(np.asarray(summed) / len(LAMBDAS))
    return result


@dataclass(frozen=True, slots=True)
class Conviction:
    """Audits until an owner that cheats at a rate is convicted."""

    rate: float
    #: Of the owners, those convicted within `MOST_AUDITS`.
    share: float
    #: Audits; none where fewer owners than that are convicted at all.
    median: int | None
    p95: int | None


def conviction(cheat: Floats, rate: float, owners: int, seed: int) -> Conviction:
    """Bootstrap of owners that cheat on a share of their jobs; a case shows 32 receipts, all else is not shown."""
    rng = np.random.default_rng(seed)
    found = [_audits(cheat, rate, rng) for _ in range(owners)]
    counts = sorted(count for count in found if count is not None)
    return Conviction(rate, len(counts) / owners, _at(counts, 0.5, owners), _at(counts, 0.95, owners))


def _at(counts: Sequence[int], share: float, owners: int) -> int | None:
    place = int(np.ceil(share * owners)) - 1
    return counts[place] if place < len(counts) else None


def _audits(cheat: Floats, rate: float, rng: np.random.Generator) -> int | None:
    shown: list[float] = []
    for audits, log_e in _caught(cheat, rate, rng):
        if log_e <= 0 or (len(shown) == MAX_POINTS and log_e <= shown[-1]):
            continue
        shown = sorted([*shown, log_e], reverse=True)[:MAX_POINTS]
        if sum(shown) >= OWNER_MISMATCH and convicts(wealth_of(shown, range(len(shown)), audits - len(shown))):
            return audits
    return None


def _caught(cheat: Floats, rate: float, rng: np.random.Generator) -> Iterator[tuple[int, float]]:
    """Audited cheated jobs in their order: how many audits until each, and its log e."""
    audits = 0
    while audits < MOST_AUDITS:
        # Drawn in blocks: one call a job costs more than all else.
        counts = audits + np.cumsum(rng.geometric(rate, size=_AT_ONCE))
        yield from zip(counts.tolist(), rng.choice(cheat, size=_AT_ONCE).tolist(), strict=True)
        audits = int(counts[-1])
