"""Attackers that earn more than is paid at once: what Escrow holds back of it is slashed as stake is."""

from __future__ import annotations

import math

from economics_profit import Special, World, by_stake, collected, gain_of

OVERFLOW = 12
CHEAPER = "earlier checkpoint"
MOST_TIMES = 1_000


def beyond_cap(world: World, stake: float, times: float, gain: float, share: float, *, friend: bool = False) -> float:
    """So many times the traffic that its stake covers. What the cap does not let out is held, and slashed like stake.

    One slash: who began early in an epoch is gone when the next one begins. A friend hands its reward back.
    """
    terms = world.terms
    severity, known = terms.severities["mismatch"], 1 + terms.duty_days
    credited = times * terms.cap(stake) * _windows(world)
    held = max(0.0, credited - collected(terms, stake, known, terms.case_days, severity))
    lost = severity * (stake + held)
    reward = min(terms.challenger_share * lost, terms.challenger_cap) if friend else 0.0
    return gain * credited / (1 - share) - lost + reward


def overflow(world: World) -> Special:
    """An established owner with 4-bit."""
    return _overflow(world, "", gain_of(world), world.terms.established_share)


def new_overflow(world: World) -> Special:
    """A new one: of what payers pay less is left to be held."""
    return _overflow(world, ", new owner", gain_of(world), world.terms.new_share)


def cheaper_overflow(world: World) -> Special:
    """A cheaper model, which saves more than the severity takes of what is held."""
    return _overflow(world, ", cheaper model", gain_of(world, CHEAPER), world.terms.established_share)


def friendly_overflow(world: World) -> Special:
    """4-bit, where a friend accuses first."""
    return _overflow(world, ", friend accuses", gain_of(world), world.terms.established_share, friend=True)


def _overflow(world: World, who: str, gain: float, share: float, *, friend: bool = False) -> Special:
    profits = by_stake(world, lambda stake: beyond_cap(world, stake, OVERFLOW, gain, share, friend=friend))
    name = f"{OVERFLOW} times the exposure cap{who}"
    return Special(name, "once", profits, "held credit is slashed like stake; routers that heed free exposure")


def _windows(world: World) -> float:
    terms = world.terms
    return 1 + (1 + terms.duty_days + terms.case_days) / terms.window_days


def overflow_break_even(world: World, gain: float, share: float, *, friend: bool = False) -> float:
    """How many times the cap must be collected until it pays at the least stake; infinite if it never does."""
    stake = world.terms.minimum_stake
    for tenths in range(10, MOST_TIMES * 10):
        if beyond_cap(world, stake, tenths / 10, gain, share, friend=friend) > 0:
            return tenths / 10
    return math.inf


def stakeless(world: World) -> Special:
    """Lets its stake leave, then collects a week's cap with 4-bit: all of it is held."""
    terms = world.terms

    def profit(stake: float) -> float:
        return gain_of(world) * terms.fees(stake) - terms.severities["mismatch"] * terms.cap(stake)

    return Special("collecting once the stake has left", "once", by_stake(world, profit), "held credit counts alone")


def stakeless_silence(world: World) -> Special:
    """The same, with no answer to a challenge."""
    terms = world.terms

    def profit(stake: float) -> float:
        return gain_of(world) * terms.fees(stake) - terms.cap(stake)

    return Special("the same, silent", "once", by_stake(world, profit), "all that is held of a silent commit is taken")
