"""Whether re-executors agree on a job, who of them counts where they do not, and what the evidence is then (R-58)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.encoding import Address
from retally.protocol.evidence import JobLogE, combine
from retally.protocol.margins import Floats
from retally.protocol.params import ONE

#: Two honest re-executors differ by less, in nats, on all but as many tokens as the calibration allows.
NOISE = 0.5
#: So many tokens beyond it are forgiven whatever the calibration says: one job is a small sample.
FORGIVEN = 2
#: The part of a job's e that pays for asking further re-executors only where the first ones disagree.
PRICE = 0.1
#: Where fewer owners may be drawn a majority would be two, and two of one hand could make guilt at every draw.
LEAST_DRAWN = 5
#: Who stood alone so often, and in such a share of its replays, is drawn last and shown as suspect.
ALONE_OFTEN, ALONE_SHARE = 3, 0.2


@dataclass(frozen=True, slots=True)
class Said:
    """What one re-executor says of a job."""

    owner: Address
    evidence: JobLogE
    margins: Floats
    #: The table that judged; None where no calibration covers the job and the pair.
    table: MarginTable | None


@dataclass(frozen=True, slots=True)
class Counted:
    """Who counts, and the evidence of the job by them."""

    who: tuple[Said, ...]
    alone: tuple[Said, ...]
    log_e: float


def agree(a: Said, b: Said) -> bool:
    """The same verdict, and margins that differ by no more than calibrated noise."""
    if a.evidence.verdict != b.evidence.verdict:
        return False
    off = int((np.abs(a.margins - b.margins) > NOISE).sum())
    return off <= FORGIVEN + 2 * len(a.margins) * max(_share_beyond(a.table), _share_beyond(b.table))


def _share_beyond(table: MarginTable | None) -> float:
    """The calibrated share of honest tokens with margins beyond the noise."""
    if table is None:
        return 0.0
    # An edge that is no likelier to be reached than the one before has no bin: the last one up to the noise counts.
    first = sum(edge <= NOISE * ONE for edge in table.edges)
    return sum(table.honest[max(1, first) :]) / PROBABILITY


def is_unanimous(said: Sequence[Said]) -> bool:
    """Whether all agree with each other."""
    return all(agree(a, b) for a, b in itertools.combinations(said, 2))


def majority_of(most: int) -> int:
    """How many of the most that may be drawn must agree."""
    return most // 2 + 1


def agreeing(said: Sequence[Said], most: int) -> tuple[Said, ...]:
    """The largest set that agrees with each other, if it is a majority of those that may be drawn; else nobody."""
    if most < LEAST_DRAWN:
        return ()
    for size in range(len(said), majority_of(most) - 1, -1):
        for part in itertools.combinations(said, size):
            if is_unanimous(part):
                return part
    return ()


def count(said: Sequence[Said], most: int) -> Counted:
    """The evidence of those that count; where no majority agrees everybody counts.

    The least of all, or of a majority, is at most the evidence of an honest one among them. `PRICE` of e is spent on
    the second way, which is taken only where the first re-executors disagree: together both have expectation one at
    most (docs/VERIFICATION.md).
    """
    least = combine([each.evidence.log_e for each in said])
    if is_unanimous(said):
        return Counted(tuple(said), (), least + math.log1p(-PRICE))
    part = agreeing(said, most)
    if not part:
        return Counted(tuple(said), (), least + math.log1p(-PRICE))
    alone = tuple(each for each in said if each not in part)
    log_e = combine([each.evidence.log_e for each in part]) + math.log(PRICE / (most - majority_of(most) + 1))
    return Counted(part, alone, log_e)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A re-executor that stands alone often."""

    owner: Address
    alone: int
    replays: int

    @property
    def reason(self) -> str:
        """For people."""
        return f"stood alone in {self.alone} of {self.replays} replays, against a majority that agreed"


def suspects(details: Iterable[dict[str, Any]]) -> dict[Address, Suspect]:
    """The warning list, from what findings keep of their replays."""
    alone: dict[Address, int] = {}
    replays: dict[Address, int] = {}
    for detail in details:
        for replay in detail.get("replays", ()):
            if "owner" not in replay:
                continue
            owner = Address(replay["owner"])
            replays[owner] = replays.get(owner, 0) + 1
            alone[owner] = alone.get(owner, 0) + bool(replay.get("alone"))
    found = {owner: Suspect(owner, times, replays[owner]) for owner, times in alone.items()}
    return {
        owner: each
        for owner, each in found.items()
        if each.alone >= ALONE_OFTEN and each.alone >= ALONE_SHARE * each.replays
    }
