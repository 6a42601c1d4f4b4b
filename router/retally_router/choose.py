"""The order of nodes for a job: targets, then money and the value of time over reliability, then a draw among ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from retally_router.wishes import Pace

#: Costs this close are a tie.
NEAR = 1.05
#: What a failure costs beside the wait so far, in seconds of the payer's time.
LOST_SECONDS = 5.0
LEAST_P_OK = 0.05


@dataclass(slots=True)
class Estimate:
    """What a job would cost and take on one node."""

    node: str
    money: float
    ttft_seconds: float
    tpot_seconds: float
    p_ok: float
    stake: int
    #: Streams of ours that run there.
    in_flight: int = 0

    def total_seconds(self, output_tokens: float) -> float:
        """Time to the last token."""
        return self.ttft_seconds + output_tokens * self.tpot_seconds


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be made small."""

    pace: Pace
    #: Amount that a second is worth.
    value_of_second: float
    output_tokens: float
    sort: str | None = None

    def meets(self, estimate: Estimate) -> bool:
        """Whether the node is expected to be quick enough."""
        in_time = estimate.ttft_seconds <= self.pace.ttft_seconds
        return in_time and estimate.tpot_seconds <= self.pace.tpot_seconds

    def cost(self, estimate: Estimate) -> float:
        """Money and the value of time over the chance that it works, and what a failure costs."""
        value = self.value_of_second
        spent = estimate.money + value * estimate.total_seconds(self.output_tokens)
        return spent / max(estimate.p_ok, LEAST_P_OK) + (1.0 - estimate.p_ok) * value * LOST_SECONDS

    def score(self, estimate: Estimate) -> tuple[int, float]:
        """Less is better; the first part sets those that meet the targets before the rest."""
        if self.sort == "price":
            return 0, estimate.money / max(estimate.p_ok, LEAST_P_OK)
        if self.sort == "latency":
            return 0, estimate.ttft_seconds / max(estimate.p_ok, LEAST_P_OK)
        if self.sort == "throughput":
            return 0, estimate.tpot_seconds / max(estimate.p_ok, LEAST_P_OK)
        if self.meets(estimate):
            return 0, self.cost(estimate)
        return 1, estimate.total_seconds(self.output_tokens) / max(estimate.p_ok, LEAST_P_OK)


def order(estimates: Sequence[Estimate], aim: Aim, random: Random) -> list[Estimate]:
    """All estimates, best first; the first is drawn among those that tie with the best."""
    scored = sorted(
        ((aim.score(estimate), estimate) for estimate in estimates), key=lambda pair: (pair[0], pair[1].node)
    )
    rank, best = scored[0][0]
    near = [estimate for (group, score), estimate in scored if group == rank and score <= best * NEAR]
    first = draw(near, random)
    return [first, *(estimate for _, estimate in scored if estimate is not first)]


def draw(near: Sequence[Estimate], random: Random) -> Estimate:
    """By stake and reliability, thinned by what is under way there already, so that bursts spread."""
    if len(near) == 1:
        return near[0]
    weights = [estimate.stake * estimate.p_ok / (1 + estimate.in_flight) for estimate in near]
    return random.choices(near, weights)[0] if any(weights) else random.choice(near)
