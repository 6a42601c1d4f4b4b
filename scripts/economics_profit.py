"""What a cheat earns more than the honest owner of the same stake and the same customers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from economics_conviction import EPOCH_DAYS, Convicted, Course, run
from economics_evidence import Evidence
from economics_terms import Assumptions, Cheat, Terms, cheats
from retally.protocol.evidence_file import MAX_POINTS

YEAR = 365.0
RATES = (1.0, 1 / 5, 1 / 20, 1 / 100)
STAKES = (1, 5, 50)
"""Multiples of the least stake."""


@dataclass(frozen=True, slots=True)
class World:
    """All that a simulation needs."""

    terms: Terms
    assumed: Assumptions
    evidence: Evidence
    seed: int = 1
    trials: int = 40
    #: Off only to see that the audits, and nothing else, keep cheats poor.
    audited: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """One cheat at one rate and stake: profit in dollars over the horizon, and how it came."""

    cheat: str
    rate: float
    stake: float
    is_new: bool
    profit: float
    error: float
    gained: float
    convicted: float
    days: float | None
    hits: float | None

    @property
    def of_stake(self) -> float:
        """Profit as a share of the stake."""
        return self.profit / self.stake


def course_of(world: World, cheat: Cheat, rate: float, stake: float, is_new: bool) -> Course:
    """The course of a cheat that collects all that its stake lets it be paid unaudited."""
    terms, assumed = world.terms, world.assumed
    paid_a_day = cheat.traffic * terms.cap(stake) / assumed.unit / terms.window_days
    # A tree or a silence needs no e; neither does what a receipt says of itself.
    log_es = None if cheat.evidence is None else world.evidence.jobs[cheat.evidence]
    return Course(
        new_points=paid_a_day / (1 - terms.new_share) / terms.new_step,
        points=paid_a_day / (1 - terms.established_share) / terms.established_step,
        new_days=round(terms.new_days) if is_new else 0,
        burst_days=terms.window_days - 1,
        honest_days=0 if is_new else 2 * EPOCH_DAYS,
        rate=rate if cheat.gain > 0 else 0.0,
        log_es=log_es,
        payers=1 if cheat.one_payer else assumed.payers,
        verifiers=assumed.verifiers,
        corrupt=cheat.corrupt,
        horizon_days=assumed.horizon_days,
        audited=world.audited,
    )


def cell(world: World, cheat: Cheat, rate: float, stake: float, *, is_new: bool = False) -> Cell:
    """The mean over the trials."""
    course = course_of(world, cheat, rate, stake, is_new)
    name = f"{cheat.name} {rate} {stake} {is_new}".encode()
    rng = np.random.default_rng([world.seed, zlib.crc32(name)])
    lives = [run(course, rng) for _ in range(world.trials)]
    profits = np.array([profit_of(world, cheat, rate, stake, life, course.new_days) for life in lives])
    ended = [life for life in lives if life is not None]
    return Cell(
        cheat=cheat.name,
        rate=rate,
        stake=stake,
        is_new=is_new,
        profit=float(profits[:, 0].mean()),
        error=float(profits[:, 0].std() / np.sqrt(world.trials)),
        gained=float(profits[:, 1].mean()),
        convicted=len(ended) / len(lives),
        days=_mean([life.day + 1 for life in ended]),
        hits=_mean([life.hits for life in ended]),
    )


def profit_of(
    world: World, cheat: Cheat, rate: float, stake: float, life: Convicted | None, new_days: int
) -> tuple[float, float]:
    """Profit and gain of one life, in dollars. What a convicted owner would have earned honestly later is left out."""
    terms, assumed = world.terms, world.assumed
    earned = cheat.gain * rate * cheat.traffic
    if life is None:
        gained = earned * fees(terms, stake, assumed.horizon_days, 0.0, 0.0, new_days)
        return gained, gained
    severity = terms.severities[cheat.severity]
    lost = 1 - (1 - severity) ** life.hits if cheat.each else severity
    # A commit's evidence is there when its verifier's duty ends.
    known = life.day + 1 + terms.duty_days + cheat.asked_days
    gained = earned * fees(terms, stake, known, terms.case_days if cheat.tried else 0.0, severity, new_days)
    refunds = min(life.hits, MAX_POINTS) * assumed.unit
    waiting = (1 - lost) * stake * assumed.interest * terms.thaw_days / YEAR
    return gained - lost * stake - refunds - waiting, gained


def collected(terms: Terms, stake: float, days: float, trial_days: float, locked: float) -> float:
    """The most that an owner is paid: a window's cap at once, the cap as it frees, less of it while a case locks."""
    cap = terms.cap(stake)
    return cap * (1 + days / terms.window_days + (1 - locked) * trial_days / terms.window_days)


def fees(terms: Terms, stake: float, days: float, trial_days: float, locked: float, new_days: float = 0.0) -> float:
    """What payers pay for that: the cap counts what the audit share leaves, and a new owner's is large."""
    whole = collected(terms, stake, days, trial_days, locked)
    if days <= new_days:
        return whole / (1 - terms.new_share)
    early = collected(terms, stake, new_days, 0.0, 0.0) if new_days else 0.0
    return early / (1 - terms.new_share) + (whole - early) / (1 - terms.established_share)


def honest_loss(world: World, stake: float, alpha: float) -> float:
    """What an honest owner loses on average to the court, where the evidence keeps its bound: it does so a period."""
    periods = world.assumed.horizon_days / EPOCH_DAYS
    return periods * alpha * world.terms.severities["mismatch"] * stake


def table(world: World, cheats: Sequence[Cheat], *, is_new: bool = False) -> list[Cell]:
    """All cheats, rates and stakes."""
    stakes = [multiple * world.terms.minimum_stake for multiple in STAKES]
    return [cell(world, cheat, rate, stake, is_new=is_new) for cheat in cheats for rate in RATES for stake in stakes]


@dataclass(frozen=True, slots=True)
class Special:
    """One attacker: dollars a round by multiple of the least stake."""

    name: str
    round: str
    profits: tuple[float, ...]
    why: str


def gain_of(world: World, name: str = "4-bit") -> float:
    """What a cheated job gains, of its fee."""
    return next(cheat.gain for cheat in cheats(world.assumed) if cheat.name == name)


def by_stake(world: World, profit: Callable[[float], float]) -> tuple[float, ...]:
    """Its profits at all stakes."""
    return tuple(profit(multiple * world.terms.minimum_stake) for multiple in STAKES)


def _mean(values: Sequence[int]) -> float | None:
    return float(np.mean(values)) if values else None
