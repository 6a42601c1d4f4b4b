"""What honest kernels differ by: the same tokens under two re-executors, and margins by temperature."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evidence_pairs import replays
from evidence_plan import BATCHED, CHEAT_VERIFIERS, FEW, REFERENCE_NARROW, Batch, Plan
from retally.protocol.params import ONE

#: Differences of log-probabilities that are counted, nats; and margins, by temperature.
TAIL = (0.05, 0.1, 0.15, 0.2, 0.25)
MARGINS = (0.1, 0.15)


def noise_rows(plan: Plan) -> Iterator[dict[str, object]]:
    """How far two replays of the same honest tokens differ in the claimed token's logprob, nats."""
    for other in (FEW, *CHEAT_VERIFIERS[1:]):
        gaps = []
        for batch in _honest(plan):
            pairs = zip(replays(plan, batch, BATCHED), replays(plan, batch, other), strict=False)
            gaps += [np.abs(one.logprobs - two.logprobs) for one, two in pairs]
        if gaps:
            each = np.concatenate(gaps)
            half, most = np.quantile(each, [0.5, 0.999])
            yield {
                "verifiers": [BATCHED.name, other.name],
                "tokens": len(each),
                "median": float(f"{half:.3g}"),
                "q999": float(f"{most:.3g}"),
                "largest": float(f"{each.max():.3g}"),
                "beyond": {f"{edge:g}": int((each >= edge).sum()) for edge in TAIL},
            }


def temperature_rows(plan: Plan) -> Iterator[dict[str, object]]:
    """Honest float32 jobs that bfloat16 replayed: how many have a margin, in nats and in units of the noise."""
    found: dict[int, list[float]] = {}
    for batch in _honest(plan):
        if batch.node == BATCHED:
            # Nothing where it was not replayed so.
            for job, row in zip(plan.jobs(batch), replays(plan, batch, REFERENCE_NARROW), strict=False):
                found.setdefault(job.params.temperature, []).append(float(row.margins.max(initial=0.0)))
    for temperature, largest in sorted(found.items()):
        peaks = np.array(largest)
        yield {
            "temperature": temperature / ONE,
            "jobs": len(peaks),
            "inNats": {f"{edge:g}": int((peaks >= edge).sum()) for edge in MARGINS},
            "inNoise": {f"{edge:g}": int((peaks / min(1, temperature / ONE) >= edge).sum()) for edge in MARGINS},
        }


def _honest(plan: Plan) -> Iterator[Batch]:
    return (batch for batch in plan.batches() if not batch.cheat)
