"""Whether honest margins still lie under a calibration's bounds: an e-process per owner, weighed over owners.

A job's drift evidence tests the very null of its verdict, with an alternative of its own: all bins but the first are
some times likelier than their bounds. One owner that shows it cheats, or is unlucky; when unrelated owners with more
than half of the stake show it, the bounds are wrong. Half is not enough: cheats who hold it would free themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.encoding import Address
from retally.protocol.margins import Floats

#: How many times likelier than its bound each bin with a margin is, under the alternatives that are averaged.
FACTORS = (2.0, 5.0, 20.0)
#: No alternative gives margins a larger share of the tokens.
MOST_SHARE = 0.9
#: One job says at most this much, in nats: no owner crosses by fewer than three.
CLIP = 3.0
LAMBDAS = (0.5, 0.1, 0.02)
#: An owner has crossed at this log wealth; by Ville's inequality an honest one ever does with a chance of 1e-3.
CROSSED = math.log(1e3)
#: Fewer unrelated owners decide nothing, whatever their stake.
LEAST_OWNERS = 3
FREEZE_SECONDS = 7 * 86_400
#: Between two freezes of a pair: whoever could bring one about frees a cheat for a fifth of the time at most.
REST_SECONDS = 28 * 86_400


def drift_log_e(margins: Floats, table: MarginTable) -> float:
    """log e of a job against the bounds: at most one in expectation as long as they hold, whatever comes of others.

    Where the honest shares weigh one, what must hold is the bound of a margin at all: only there the ratio may rise.
    """
    if len(margins) == 0:
        return 0.0
    honest = np.asarray(table.honest, dtype=np.float64) / PROBABILITY
    bins = table.bins(margins)
    beyond = float(honest[1:].sum())
    sums = []
    for factor in FACTORS:
        # Where the bounds are loose, no alternative can be so many times likelier.
        times = min(factor, MOST_SHARE / beyond)
        ratios = np.full(len(honest), times)
        # Never above one: where bounds that differ by edges weigh nearly all, a token without a margin is no drift.
        ratios[0] = min(1.0, (1 - times * beyond) / honest[0])
        sums.append(float(np.log(ratios[bins]).sum()))
    largest = max(sums)
    return min(CLIP, largest + math.log(sum(math.exp(each - largest) for each in sums) / len(sums)))


def log_wealth(log_es: Sequence[float]) -> float:
    """The largest that an owner's process ever was: the mean over bets of the products, job after job."""
    running = np.zeros((len(LAMBDAS), 1))
    if log_es:
        es = np.exp(np.minimum(CLIP, np.asarray(log_es, dtype=np.float64)))
        running = np.cumsum([np.log(1 - bet + bet * es) for bet in LAMBDAS], axis=1)
    means = np.logaddexp.reduce(running, axis=0) - math.log(len(LAMBDAS))
    return float(means.max())


@dataclass(frozen=True, slots=True)
class Group:
    """Unrelated to all other groups: an owner with its siblings."""

    owners: frozenset[Address]
    #: Free stake together.
    stake: int
    has_crossed: bool


def has_drifted(groups: Sequence[Group], least_stake: int) -> bool:
    """Whether enough unrelated owners with enough stake show margins beyond the bounds.

    A group without the least stake counts nowhere. None counts for more than a quarter of all, so that no owner alone
    holds a pair back, nor frees itself.
    """
    counted = [group for group in groups if group.stake >= least_stake > 0]
    # In quarters of a unit, so that exactly half stays exactly half.
    most = sum(group.stake for group in counted)
    crossed = [min(4 * group.stake, most) for group in counted if group.has_crossed]
    total = sum(min(4 * group.stake, most) for group in counted)
    return len(crossed) >= LEAST_OWNERS and 2 * sum(crossed) > total


def grouped(
    wealths: Mapping[Address, float], stakes: Mapping[Address, int], siblings: Sequence[tuple[Address, Address]]
) -> list[Group]:
    """Owners joined with their declared siblings; a group has crossed if one of its owners has."""
    of: dict[Address, set[Address]] = {owner: {owner} for owner in wealths}
    for a, b in siblings:
        if a in of and b in of and of[a] is not of[b]:
            of[a] |= of[b]
            for owner in of[b]:
                of[owner] = of[a]
    distinct = {id(members): members for members in of.values()}
    return [
        Group(
            frozenset(members),
            sum(stakes.get(owner, 0) for owner in members),
            any(wealths[owner] >= CROSSED for owner in members),
        )
        for members in distinct.values()
    ]


def may_freeze(now: int, last_until: int | None) -> bool:
    """Whether a pair has rested long enough since its last freeze."""
    return last_until is None or now >= last_until + REST_SECONDS
