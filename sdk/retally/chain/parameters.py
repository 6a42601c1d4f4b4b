"""Parameters of a deployment: the table of a chain with money on it, and the one of a local chain."""

from __future__ import annotations

from collections.abc import Mapping

_DAY = 24 * 3600
_DOLLAR = 1_000_000

Parameters = Mapping[str, Mapping[str, int]]


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
        **_court_parameters(),
    }


def _court_parameters() -> dict[str, dict[str, int]]:
    return {
        "Audits": {"tipPpm": 100_000, "dutySeconds": _DAY, "revealSeconds": _DAY},
        "Faults": {
            "challengerCap": 1_000 * _DOLLAR,
            "signedCap": 500 * _DOLLAR,
            "receiptLifeSeconds": 28 * _DAY,
        },
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
        },
        "Court": {
            "jurySize": 7,
            "seedDelay": 4,
            "commitSeconds": _DAY,
            "revealSeconds": _DAY,
            "appealSeconds": 2 * _DAY,
            "jurorAgeSeconds": 28 * _DAY,
            "caseFee": 70 * _DOLLAR,
            "caseBond": 50 * _DOLLAR,
            "tip": _DOLLAR // 2,
            "challengerCap": 1_000 * _DOLLAR,
            "jurorCap": 100 * _DOLLAR,
        },
    }


def devnet_parameters() -> dict[str, dict[str, int]]:
    """The same for a local chain: every time window is real, but nobody waits for a rule change or for old jurors."""
    parameters = default_parameters()
    parameters["Timelock"]["minDelay"] = 0
    parameters["Registry"]["calibrationDelay"] = 0
    parameters["Court"] |= {"jurySize": 3, "jurorAgeSeconds": 0, "caseFee": 30 * _DOLLAR, "caseBond": 20 * _DOLLAR}
    return parameters
