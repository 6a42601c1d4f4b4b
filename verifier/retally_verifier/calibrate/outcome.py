"""From margins to a calibration: all honest jobs make the table, and quarter by quarter they say how such tables do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retally.errors import BadRequest
from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import JOB_MISMATCH, margin_log_e
from retally.protocol.params import ONE
from retally_verifier.calibrate.measure import Measured
from retally_verifier.calibration_bounds import CONFIDENCE_MISS, Margins
from retally_verifier.calibration_quarters import (
    PARTS,
    judged_by,
    largest_of,
    others,
    parted,
    quartered_log_es,
    quarters_of,
)
from retally_verifier.calibration_tables import make_table

#: The least jobs of a pair: a table of three quarters judges the eight of the fourth.
LEAST_JOBS = 32
#: So many quarters of a cheat's jobs choose alternatives; the others are reported.
CHOOSING = 2


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most noise that honest set-ups of a precision may show."""

    #: Share of tokens with any margin.
    positive: float
    #: Share of tokens with a margin above 0.6 nats.
    far: float


#: Measured: none in float32 and one token in a hundred in bfloat16 (docs/VERIFICATION.md); 16-bit floats lie between.
CEILINGS: Mapping[str, Ceiling] = {
    "float32": Ceiling(0.01, 0.001),
    "float16": Ceiling(0.03, 0.002),
    "bfloat16": Ceiling(0.05, 0.003),
}
FAR = 0.6


class TooNoisy(BadRequest):
    """Honest set-ups differ by more than their precision explains: a table made from them would convict nobody."""

    def __init__(self, pair: str, dtype: str, what: str, found: float, ceiling: float) -> None:
        super().__init__(
            f"{pair}: {found:.2%} of honest tokens have {what}, above the ceiling of {ceiling:.2%} for {dtype}",
            hint="look for a set-up that runs in another precision, with other kernels than its profile says, or with"
            " another model; leave it out or give it a profile of its own",
        )
        self.found = found
        self.ceiling = ceiling


class TooFewJobs(BadRequest):
    """The canaries do not suffice for a table and for a quarter that it judges."""

    def __init__(self, pair: str, found: int) -> None:
        super().__init__(
            f"{pair} has {found} jobs of one kind, {LEAST_JOBS} are the least: each quarter is judged by the others",
            param="jobs",
            hint="raise --jobs; greedy jobs are half as many, and set-ups that answer share them",
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What honest jobs score under tables that they took no part in."""

    jobs: int
    largest_log_e: float
    mean_e: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One kind of sampling: its table, and what jobs say of such tables that they took no part in."""

    table: MarginTable
    #: For each quarter of the honest jobs a table of the three others, which judges it.
    tables: tuple[MarginTable, ...]
    held: HeldOut
    #: What the bound of large margins rests on, nats; none where a set-up does not say its logprobs.
    noise: float | None
    #: By pair, in quarters.
    honest: Mapping[str, tuple[list[Margins], ...]]
    held_cheats: Mapping[str, list[Margins]]
    measured: Measured

    def judged(self) -> Iterator[tuple[Margins, MarginTable]]:
        """Each honest job, and the table that judges it."""
        for parts in self.honest.values():
            yield from judged_by(parts, self.tables)

    def power(self, cheat: str) -> float:
        """The share of a cheat's held-out jobs that are a mismatch by themselves."""
        jobs = self.held_cheats[cheat]
        return float(np.mean([margin_log_e(job, self.table) >= JOB_MISMATCH for job in jobs]))


def outcome_of(measured: Measured) -> Outcome:
    """The table of all honest jobs, what each quarter of them scores under one of the others, and what cheats do."""
    for pair, jobs in measured.honest.items():
        if len(jobs) < LEAST_JOBS:
            raise TooFewJobs(pair, len(jobs))
    # By the jobs' seeds, so alike for all who replay them: none makes the table by which another judges its margins.
    honest = {pair: parted(jobs, quarters_of(measured.seeds[pair])) for pair, jobs in measured.honest.items()}
    cheats = {name: parted(jobs, quarters_of(measured.cheat_seeds)) for name, jobs in measured.cheats.items()}
    choosing = {name: [job for jobs in parts[:CHOOSING] for job in jobs] for name, parts in cheats.items()}
    noises = _largest_noises(measured)
    tables = tuple(
        make_table(
            {pair: others(parts, quarter) for pair, parts in honest.items()},
            choosing,
            largest_of(others([[noise] for noise in noises], quarter)),
        ).table
        for quarter in range(PARTS)
    )
    noise = largest_of(noises)
    return Outcome(
        table=make_table(measured.honest, choosing, noise).table,
        tables=tables,
        held=_held_out(honest, tables),
        noise=noise,
        honest=honest,
        held_cheats={name: [job for jobs in parts[CHOOSING:] for job in jobs] for name, parts in cheats.items()},
        measured=measured,
    )


def _held_out(honest: Mapping[str, Sequence[Sequence[Margins]]], tables: Sequence[MarginTable]) -> HeldOut:
    log_es = np.concatenate([quartered_log_es(parts, tables) for parts in honest.values()])
    return HeldOut(len(log_es), float(log_es.max()), float(np.exp(log_es).mean()))


def _largest_noises(measured: Measured) -> list[float | None]:
    """For each quarter the largest difference of log-probabilities in any pair; none where one is not known."""
    parts = [parted(noise, quarters_of(measured.seeds[pair])) for pair, noise in measured.noise.items()]
    return [largest_of([each for pair in parts for each in pair[quarter]]) for quarter in range(PARTS)]


def check_noise(measured: Measured, dtypes: Sequence[str]) -> None:
    """Raises where a pair is noisier than the least precise of its two profiles may be."""
    unknown = [dtype for dtype in dtypes if dtype not in CEILINGS]
    if unknown:
        hint = f"a profile's dtype is one of {', '.join(CEILINGS)}; others need a measured ceiling first"
        raise BadRequest(f"no noise ceiling is known for {', '.join(unknown)}", param="dtype", hint=hint)
    dtype = max(dtypes, key=lambda each: CEILINGS[each].positive)
    ceiling = CEILINGS[dtype]
    for pair, jobs in measured.honest.items():
        margins = np.concatenate(jobs)
        positive, far = float((margins > 0).mean()), float((margins > FAR).mean())
        if positive > ceiling.positive:
            raise TooNoisy(pair, dtype, "a margin", positive, ceiling.positive)
        if far > ceiling.far:
            raise TooNoisy(pair, dtype, f"a margin above {FAR} nats", far, ceiling.far)


def notes(outcome: Outcome) -> dict[str, object]:
    """What a calibration says of its own making; integers only, since its hash is over them."""
    return {
        "honest": {
            pair: {
                "jobs": len(jobs),
                "tokens": sum(len(job) for job in jobs),
                "positive": int(sum((job > 0).sum() for job in jobs)),
                "largestMicroNats": int(max(job.max(initial=0) for job in jobs) * ONE),
            }
            for pair, jobs in outcome.measured.honest.items()
        },
        "cheats": {
            name: {
                "jobs": len(jobs),
                "positivePpm": int(np.concatenate(jobs).astype(bool).mean() * ONE),
                "heldOutMismatchPpm": int(outcome.power(name) * ONE),
            }
            for name, jobs in outcome.measured.cheats.items()
        },
        "heldOut": {
            "jobs": outcome.held.jobs,
            "largestLogEMicroNats": int(outcome.held.largest_log_e * ONE),
            "meanEPpm": int(outcome.held.mean_e * ONE),
        },
        "confidenceMissPpm": int(CONFIDENCE_MISS * ONE),
        "noiseMicroNats": None if outcome.noise is None else math.ceil(outcome.noise * ONE),
    }
