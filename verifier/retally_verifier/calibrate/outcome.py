"""From margins to a calibration: half of the jobs makes the tables, the other half says how they do."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retally.errors import BadRequest
from retally.protocol.calibration import MarginTable
from retally.protocol.evidence import JOB_MISMATCH, margin_log_e
from retally.protocol.params import ONE
from retally_verifier.calibrate.measure import Measured
from retally_verifier.calibration_bounds import CONFIDENCE_MISS, Margins
from retally_verifier.calibration_tables import HeldOut, hold_out, make_table

#: The least jobs of a pair that may make a table, and as many are held out.
LEAST_JOBS = 16


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
    """The canaries do not suffice for a table and a held-out half."""

    def __init__(self, pair: str, found: int) -> None:
        super().__init__(
            f"{pair} has {found} jobs of one kind, {2 * LEAST_JOBS} are the least: half of them is held out",
            param="jobs",
            hint="raise --jobs; greedy jobs are half as many, and set-ups that answer share them",
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One kind of sampling: its table, and what the jobs that did not make it say."""

    table: MarginTable
    held: HeldOut
    #: What the bound of large margins rests on, nats; none where a set-up does not say its logprobs.
    noise: float | None
    held_honest: Mapping[str, list[Margins]]
    held_cheats: Mapping[str, list[Margins]]
    measured: Measured

    def power(self, cheat: str) -> float:
        """The share of a cheat's held-out jobs that are a mismatch by themselves."""
        jobs = self.held_cheats[cheat]
        return float(np.mean([margin_log_e(job, self.table) >= JOB_MISMATCH for job in jobs]))


def outcome_of(measured: Measured, seed: str) -> Outcome:
    """The table from one half of the jobs, drawn by the seed, and what the other half scores under it."""
    orders: dict[str, list[int]] = {}
    honest = {}
    for pair, jobs in measured.honest.items():
        if len(jobs) < 2 * LEAST_JOBS:
            raise TooFewJobs(pair, len(jobs))
        # One order for all who replay a set-up's jobs: none of them makes the table with a job that another judges.
        node = measured.answered_by[pair]
        order = orders.setdefault(node, _order(len(jobs), f"{seed} {node}"))
        honest[pair] = [jobs[index] for index in order]
    cheats = {
        name: [jobs[index] for index in _order(len(jobs), f"{seed} {name}")] for name, jobs in measured.cheats.items()
    }
    fitted = {name: jobs[::2] for name, jobs in cheats.items()}
    noise = _noise(measured, orders)
    return Outcome(
        table=make_table({pair: jobs[::2] for pair, jobs in honest.items()}, fitted, noise).table,
        held=hold_out(honest, fitted, noise),
        noise=noise,
        held_honest={pair: jobs[1::2] for pair, jobs in honest.items()},
        held_cheats={name: jobs[1::2] for name, jobs in cheats.items()},
        measured=measured,
    )


def _noise(measured: Measured, orders: Mapping[str, Sequence[int]]) -> float | None:
    """The largest difference of log-probabilities in the jobs that make the table; none where one is not known."""
    found = [
        measured.noise[pair][index]
        for pair, node in measured.answered_by.items()
        for index in orders[node][::2]
    ]  # fmt: skip
    known = [each for each in found if each is not None]
    return max(known) if known and len(known) == len(found) else None


def _order(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


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
