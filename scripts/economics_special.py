"""Attackers whose profit is no matter of a rate: each with what bounds it, in dollars a round, by stake."""

from __future__ import annotations

from collections.abc import Callable

from economics_conviction import EPOCH_DAYS, convicts, wealth_of
from economics_evidence import JobLogEs
from economics_held import (
    cheaper_overflow,
    friendly_overflow,
    new_overflow,
    overflow,
    stakeless,
    stakeless_silence,
)
from economics_profit import STAKES, YEAR, Special, World, by_stake, fees, gain_of
from retally.protocol.evidence import JOB_CLIP
from retally.protocol.evidence_file import MAX_POINTS

MOST_POINTS = 1 << 26
ROLLED = 2
"""Epochs that a period spans at most."""
STREAM_CHUNK, STREAM_TOKENS = 32, 256
DEPOSIT_GAS = 72_839


def specials(world: World) -> list[Special]:
    """All of them, in the order of the table."""
    makers: tuple[Callable[[World], Special], ...] = (
        padder, one_payer_padder, pacer, rotator, self_auditor, unready, friendly_pair, overflow, new_overflow,
        cheaper_overflow, friendly_overflow, stakeless, stakeless_silence, lazy_verifier, trapped_verifier,
        looking_verifier, false_accuser, payer,
    )  # fmt: skip
    return [make(world) for make in makers]


def least_undisclosed(payers: int, log_e: float = JOB_CLIP) -> int:
    """How many drawn points that a case can't show keep the strongest case of these payers' jobs from a conviction."""
    log_es, whose = [log_e] * MAX_POINTS, [index % payers for index in range(MAX_POINTS)]
    low, high = 0, MOST_POINTS
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if convicts(wealth_of(log_es, whose, middle)) else (low, middle)
    return low


def hits_to_convict(undisclosed: int, payers: int, log_e: float = JOB_CLIP) -> int:
    """The least number of such receipts that convict; more than a case may show if none does."""
    for hits in range(1, MAX_POINTS + 1):
        if convicts(wealth_of([log_e] * hits, [index % payers for index in range(hits)], undisclosed)):
            return hits
    return MAX_POINTS + 1


def strongest(log_es: JobLogEs) -> float:
    """What a caught job of this cheat says at most."""
    return float(log_es.values[log_es.shares > 0].max())


def _padding(world: World, payers: int) -> Callable[[float], float]:
    terms, assumed = world.terms, world.assumed
    points = least_undisclosed(payers, strongest(world.evidence.jobs["int4"]))

    def profit(stake: float) -> float:
        weeks = EPOCH_DAYS / terms.window_days
        own = terms.fees(stake) * weeks / assumed.unit / terms.established_step
        money = max(0.0, points - own) * terms.established_step * assumed.unit
        # Its own money stands in the same queue: what exceeds the cap is held before it comes back.
        waiting = money * assumed.interest * terms.held_days / YEAR
        return gain_of(world) * terms.fees(stake) * weeks - money * terms.established_share - waiting

    return profit


def padder(world: World) -> Special:
    """Pays itself until no case can show enough of what was drawn; all its customers get 4-bit."""
    profits = by_stake(world, _padding(world, world.assumed.payers))
    return Special("padded commits", "an epoch", profits, "the audit share of the padding; a job's chance is unchanged")


def one_payer_padder(world: World) -> Special:
    """The same, where all that it cheats is one payer."""
    profits = by_stake(world, _padding(world, 1))
    return Special("padded commits, one payer", "an epoch", profits, "as above, but one payer's evidence is capped")


def pacer(world: World) -> Special:
    """Counts who audits what, and cheats no more where one more caught job would convict it."""
    terms, assumed = world.terms, world.assumed
    log_e = strongest(world.evidence.jobs["int4"])

    def profit(stake: float) -> float:
        drawn = ROLLED * EPOCH_DAYS / terms.window_days * terms.fees(stake) / assumed.unit / terms.established_step
        free = assumed.verifiers * (hits_to_convict(round(drawn), assumed.payers, log_e) - 1)
        return gain_of(world) * free * terms.established_step * assumed.unit

    return Special("paced 4-bit", "a period", by_stake(world, profit), "evidence of older periods is forgotten")


def rotator(world: World) -> Special:
    """Cheats as a new owner until one more caught job would convict it, leaves, and comes again."""
    terms, assumed = world.terms, world.assumed
    free = assumed.verifiers * (hits_to_convict(0, assumed.payers, strongest(world.evidence.jobs["int4"])) - 1)

    def profit(stake: float) -> float:
        units = free * terms.new_step
        waiting = stake * assumed.interest * terms.thaw_days / YEAR
        share = units * assumed.unit * (terms.new_share - terms.established_share)
        return gain_of(world) * units * assumed.unit - share - waiting

    return Special("identity rotation", "an identity", by_stake(world, profit), "dense audits; the thaw of the stake")


def self_auditor(world: World) -> Special:
    """The attacker's sibling is the only verifier: nothing is ever found."""
    terms = world.terms

    def profit(stake: float) -> float:
        gained = gain_of(world) * fees(terms, stake, world.assumed.horizon_days, 0.0, 0.0)
        aging = 1 + terms.verifier_age_days / YEAR
        return gained - world.assumed.interest * terms.minimum_verifier * aging

    return Special("self-audit, sole verifier", "a year", by_stake(world, profit), "nothing: a set of one is trusted")


def friendly_pair(world: World) -> Special:
    """A cheat whose friend accuses it first and hands back the reward."""
    terms = world.terms

    def profit(stake: float) -> float:
        severity = terms.severities["mismatch"] * stake
        reward = min(terms.challenger_share * severity, terms.challenger_cap)
        gained = gain_of(world) * fees(terms, stake, 1 + terms.duty_days, terms.case_days, severity / stake)
        return gained - severity + reward

    return Special("colluding pair, friend accuses", "once", by_stake(world, profit), "half is burned first")


def unready(world: World) -> Special:
    """4-bit in a pair whose pool is not ready: no first jury is drawn, and the case fee is the accused's."""

    def profit(stake: float) -> float:
        return gain_of(world) * fees(world.terms, stake, world.assumed.horizon_days, 0.0, 0.0)

    why = "nothing in court; such a pair is shown as unaudited"
    return Special("4-bit, pool not ready", "a year", by_stake(world, profit), why)


def corrupt_break_even(world: World) -> float:
    """Which part of the verifiers must look away until 4-bit pays: the days until an honest one is drawn."""
    terms = world.terms
    a_window = gain_of(world) * terms.fees(1.0)
    a_day = a_window / terms.window_days
    severity = terms.severities["mismatch"]
    fixed = a_window * (1 + terms.duty_days / terms.window_days)
    trial = a_window * (1 - severity) * terms.case_days / terms.window_days
    return 1 - a_day / (severity - fixed - trial)


def lazy_verifier(world: World) -> Special:
    """Says match of every point and saves the replays; nobody sets traps."""
    saved = world.assumed.replay * world.assumed.unit
    return Special("lazy verifier, no traps", "a point", (saved,) * len(STAKES), "nothing, until somebody sets traps")


def trapped_verifier(world: World) -> Special:
    """The same where one point in a hundred is a trap."""
    terms = world.terms
    saved = world.assumed.replay * world.assumed.unit
    profits = tuple(saved - 0.01 * terms.severities["duty"] * multiple * terms.minimum_verifier for multiple in STAKES)
    return Special("lazy verifier, 1 % traps", "a point", profits, "a missed duty a trap")


def looking_verifier(world: World) -> Special:
    """Replays only what could be a trap: a short prompt, no prefix, no bias. Few jobs are so."""
    saved = (1 - world.assumed.short_prompts) * world.assumed.replay * world.assumed.unit
    why = "a wrong verdict costs nothing by itself"
    return Special("lazy verifier that looks for traps", "a point", (saved,) * len(STAKES), why)


def traps_a_period(world: World) -> list[float]:
    """The share of an owner's points that it may make traps, by stake, and not be convicted by them."""
    terms, shares = world.terms, []
    for multiple in STAKES:
        paid = ROLLED * EPOCH_DAYS / terms.window_days * terms.fees(multiple * terms.minimum_stake)
        drawn = paid / world.assumed.unit / terms.established_step
        shares.append((hits_to_convict(round(drawn), 1) - 1) / drawn)
    return shares


def trap_break_even(world: World) -> float:
    """The share of traps at which laziness stops to pay, for the least bond."""
    terms = world.terms
    return world.assumed.replay * world.assumed.unit / (terms.severities["duty"] * terms.minimum_verifier)


def false_accuser(world: World) -> Special:
    """Takes an honest owner to court and hopes for a coalition of 30 % of the jurors' stake."""
    terms = world.terms

    def profit(stake: float) -> float:
        reward = min(terms.challenger_share * terms.severities["mismatch"] * stake, terms.challenger_cap)
        return world.assumed.jury_error * reward - (1 - world.assumed.jury_error) * terms.case_cost

    return Special("false accuser", "a case", by_stake(world, profit), "case fee and, by a match, bond are lost")


def payer(world: World) -> Special:
    """Takes one chunk beyond what it vouched for and never comes back under that account."""
    assumed = world.assumed
    profit = assumed.unit * STREAM_CHUNK / STREAM_TOKENS - DEPOSIT_GAS * assumed.gas / 1e6
    return Special("payer who stops paying", "an account", (profit,) * len(STAKES), "one chunk a stream; a new account")
