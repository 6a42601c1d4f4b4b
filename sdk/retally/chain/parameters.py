"""Parameters of a deployment: the table of a chain with money on it, and the one of a local chain."""

from __future__ import annotations

from collections.abc import Mapping

_HOUR = 3600
_DAY = 24 * _HOUR
_DOLLAR = 1_000_000

Parameters = Mapping[str, Mapping[str, int]]

DELAYS = frozenset(
    {
        "ageSeconds", "answerSeconds", "appealSeconds", "calibrationDelay", "commitSeconds", "dutySeconds",
        "exposureWindow", "heldPeriod", "jurorAgeSeconds", "minDelay", "newOwnerPeriod", "partSeconds",
        "receiptLifeSeconds", "lateSeconds", "revealSeconds", "slasherDelay", "thawPeriod", "warningPeriod",
        "windowSeconds",
    }
)  # fmt: skip
"""Parameters that are delays; what a devnet scales."""


class DelaysDoNotFit(ValueError):
    """Delays that would let somebody leave before it could be judged, or before a rule that it dislikes holds."""

    def __init__(self, delays: Mapping[str, int]) -> None:
        self.delays = dict(delays)
        super().__init__(f"these delays do not fit together: {self.delays}")


def default_parameters() -> dict[str, dict[str, int]]:
    """Parameters for a chain with money of six decimals on it."""
    return {
        "Timelock": {"minDelay": 7 * _DAY},
        "Staking": {
            "minimumOperator": 1_000 * _DOLLAR,
            "minimumRouter": 1_000 * _DOLLAR,
            "minimumVerifier": 1_000 * _DOLLAR,
            "thawPeriod": 21 * _DAY,
            "slasherDelay": 28 * _DAY,
            "exposurePpm": 200_000,
            "mismatchPpm": 500_000,
            "tilingPpm": 500_000,
            "overbillingPpm": 500_000,
            "conflictPpm": 100_000,
            "dutyPpm": 20_000,
            "challengerCapPpm": 300_000,
            "jurorsCapPpm": 200_000,
        },
        "Registry": {
            "newOwnerPeriod": 28 * _DAY,
            "warningPeriod": 28 * _DAY,
            "calibrationDelay": 28 * _DAY,
            "newStepUnits": 5,
            "establishedStepUnits": 50,
            "newSharePpm": 300_000,
            "establishedSharePpm": 30_000,
        },
        "Escrow": {"thawPeriod": 3 * _DAY, "exposureWindow": 7 * _DAY, "heldPeriod": 21 * _DAY, "seedDelay": 4},
        # Twice a first jury and one more, with the least that each of them has at stake.
        "JurorPools": {"readyOwners": 15, "readyStake": 15_000 * _DOLLAR},
        **_court_parameters(),
    }


def _court_parameters() -> dict[str, dict[str, int]]:
    faults = {
        "challengerCap": 1_000 * _DOLLAR,
        "signedCap": 500 * _DOLLAR,
        "receiptLifeSeconds": 28 * _DAY,
        "lateSeconds": 7 * _DAY,
    }
    return {
        "Audits": {"tipPpm": 100_000, "dutySeconds": _DAY, "revealSeconds": _DAY, "ageSeconds": 28 * _DAY},
        "Faults": faults,
        "TreeFaults": faults,
        "Silence": {
            "bond": 20 * _DOLLAR,
            "answerFee": 2 * _DOLLAR,
            "answerFeePerKilobyte": _DOLLAR // 10,
            "tip": _DOLLAR // 2,
            "challengerCap": 1_000 * _DOLLAR,
            "windowSeconds": 7 * _DAY,
            "answerSeconds": _DAY,
            "partSeconds": 3600,
            "partTokens": 2048,
            "payerLimit": 4,
            "verifierLimit": 16,
        },
        "Court": {
            "jurySize": 7,
            "seedDelay": 4,
            # A case with both appeals ends within 8 days.
            "commitSeconds": 14 * _HOUR,
            "revealSeconds": 10 * _HOUR,
            "appealSeconds": _DAY,
            "jurorAgeSeconds": 28 * _DAY,
            "caseFee": 70 * _DOLLAR,
            "caseBond": 50 * _DOLLAR,
            "tip": _DOLLAR // 2,
            "duty": 20 * _DOLLAR,
            "challengerCap": 1_000 * _DOLLAR,
            "jurorCap": 100 * _DOLLAR,
        },
    }


def devnet_parameters(time_scale: int = 1) -> dict[str, dict[str, int]]:
    """The same for a local chain, where nobody waits to grow old; every delay is shorter by one factor."""
    parameters = default_parameters()
    parameters["Court"] |= {"jurySize": 3, "jurorAgeSeconds": 0, "caseFee": 30 * _DOLLAR, "caseBond": 20 * _DOLLAR}
    parameters["Audits"] |= {"ageSeconds": 0}
    parameters["JurorPools"] = {"readyOwners": 4, "readyStake": 4_000 * _DOLLAR}
    return scale_delays(parameters, time_scale)


def scale_delays(parameters: Parameters, factor: int) -> dict[str, dict[str, int]]:
    """The same parameters with every delay divided by one factor, so that they still fit together."""
    return {
        name: {field: _scale(value, factor) if field in DELAYS else value for field, value in values.items()}
        for name, values in parameters.items()
    }


def check_delays(parameters: Parameters) -> None:
    """Raise unless the delays fit together: what the contracts check of their own when they are made, and the timelock.

    Whoever disagrees with a proposal has time to leave before it is carried out or, with a stake, before it holds.
    """
    staking, court = parameters["Staking"], parameters["Court"]
    steps = {
        "payers' thaw": parameters["Escrow"]["thawPeriod"],
        "the timelock": parameters["Timelock"]["minDelay"],
        "stakes' thaw": staking["thawPeriod"],
        "new slashers": staking["slasherDelay"],
    }
    if not 0 < steps["payers' thaw"] < steps["the timelock"] < steps["stakes' thaw"] < steps["new slashers"]:
        raise DelaysDoNotFit(steps)
    if parameters["Registry"]["calibrationDelay"] < staking["slasherDelay"]:
        raise DelaysDoNotFit({"new slashers": staking["slasherDelay"], **parameters["Registry"]})
    judged = {"evidence": parameters["Silence"]["windowSeconds"], "a case": longest_case_seconds(court)}
    if not sum(judged.values()) < staking["thawPeriod"]:
        raise DelaysDoNotFit(judged | {"stakes' thaw": staking["thawPeriod"]})


def longest_case_seconds(court: Mapping[str, int]) -> int:
    """How long a case takes at most whose steps are all called: a jury, one in its place, a larger one, two appeals."""
    round_seconds = court["commitSeconds"] + court["revealSeconds"]
    return 5 * round_seconds + 2 * court["appealSeconds"]


def _scale(value: int, factor: int) -> int:
    return max(1, value // factor) if value else 0
