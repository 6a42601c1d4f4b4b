"""The closed forms that bound an attacker's profit, and how well the simulation agrees with them.

Money is in fees of a job: R is the fee, G what a cheated job gains, S what a conviction costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from economics_conviction import convicts, wealth_of
from economics_evidence import JobLogEs
from economics_profit import World
from economics_terms import Cheat
from retally.protocol.evidence import LAMBDAS, OWNER_MISMATCH

TOLERANCE = 0.15
"""By how much of the closed form the simulated audits may lie outside of it."""


def one_shot_bound(gain: float, fee: float, slash: float, power: float, corrupt: float = 0.0) -> float:
    """The chance of an audit above which a single cheated job does not pay: p > G / (beta (1-r) (R + S))."""
    return gain / (power * (1 - corrupt) * (fee + slash))


def slow_bound(gain: float, slash: float, nats: float, corrupt: float = 0.0) -> float:
    """The same for cheating for ever on few jobs: p > G ln(1/alpha) / (I (1-r) S), I nats a cheated audited job."""
    return math.inf if nats <= 0 else gain * OWNER_MISMATCH / (nats * (1 - corrupt) * slash)


def one_shot_profit(chance: float, gain: float, fee: float, slash: float, power: float) -> float:
    """What one cheated job earns on average, if one caught audit convicts; zero at the bound."""
    return gain - chance * power * (fee + slash)


def nats(log_es: JobLogEs, rate: float) -> tuple[float, float]:
    """I of the best single bet, per cheated audited job; honest audits between are not shown. And the overshoot."""
    best, over = -math.inf, 0.0
    for bet in LAMBDAS:
        gains = np.log1p(bet * np.expm1(log_es.values))
        # No verifier shows a job that speaks for the owner, as in the simulation: a case holds few.
        shown = np.where(log_es.values > 0, gains, math.log1p(-bet))
        each = float(log_es.shares @ shown) + (1 / rate - 1) * math.log1p(-bet)
        if each > best:
            positive = np.maximum(shown, 0)
            best, over = each, float(log_es.shares @ positive**2 / max(1e-12, float(log_es.shares @ positive)))
    return best, over


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cheated audited jobs until conviction: between which closed forms, and simulated."""

    cheat: str
    rate: float
    nats: float
    least: float
    most: float
    simulated: float

    @property
    def holds(self) -> bool:
        """Whether the simulated mean lies between them, within the tolerance."""
        return self.least * (1 - TOLERANCE) <= self.simulated <= self.most * (1 + TOLERANCE)


def agreement(world: World, cheat: Cheat, rate: float, trials: int = 200) -> Agreement | None:
    """Wald's ln(1/alpha) / I from below; from above the price of averaging the bets, and Lorden's overshoot.

    One verifier, many payers, nothing before: what the closed form assumes. None where no audit convicts.
    """
    log_es = world.evidence.jobs[cheat.evidence or "honest"]
    each, over = nats(log_es, rate)
    if each <= 0:
        return None
    rng = np.random.default_rng([world.seed, 7])
    simulated = float(np.mean([_hits(log_es, rate, rng) for _ in range(trials)]))
    most = (OWNER_MISMATCH + math.log(len(LAMBDAS)) + over) / each
    # Nobody is convicted by a part of a job.
    return Agreement(cheat.name, rate, each, max(1.0, OWNER_MISMATCH / each), most, simulated)


def _hits(log_es: JobLogEs, rate: float, rng: np.random.Generator) -> int:
    shown: list[float] = []
    hits = drawn = 0
    while True:
        drawn += int(rng.geometric(rate))
        hits += 1
        log_e = log_es.strongest(rng, 1, 1)[0]
        if log_e <= 0:
            continue
        shown.append(log_e)
        if sum(shown) >= OWNER_MISMATCH and convicts(wealth_of(shown, range(len(shown)), drawn - len(shown))):
            return hits
