"""An open, verifiable, pay-per-token market for LLM inference."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retally.checks import run_checks
    from retally.client import AsyncClient, Client, result_of
    from retally.errors import (
        BadRequest,
        CapExceeded,
        ChainUnreachable,
        InsufficientFunds,
        InvalidReceipt,
        InvalidSignature,
        PaymentRequired,
        PriceAboveMax,
        RetallyError,
        SpendingLimitExceeded,
        TransactionFailed,
        UnsupportedParameter,
    )
    from retally.job_evidence import CheckResult, Checks, Evidence
    from retally.job_result import JobResult
    from retally.keystore import Keystore
    from retally.protocol.eip712 import Domain, SigningKey
    from retally.protocol.pricing import Prices
    from retally.sign_job import PaymentTerms
    from retally.wallet import Wallet

__version__ = "0.1.0"

# Loaded when first asked for: `import retally` alone must stay light.
_HOMES = {
    "AsyncClient": "retally.client",
    "BadRequest": "retally.errors",
    "CapExceeded": "retally.errors",
    "ChainUnreachable": "retally.errors",
    "CheckResult": "retally.job_evidence",
    "Checks": "retally.job_evidence",
    "Client": "retally.client",
    "Domain": "retally.protocol.eip712",
    "Evidence": "retally.job_evidence",
    "InsufficientFunds": "retally.errors",
    "InvalidReceipt": "retally.errors",
    "InvalidSignature": "retally.errors",
    "JobResult": "retally.job_result",
    "Keystore": "retally.keystore",
    "PaymentRequired": "retally.errors",
    "PaymentTerms": "retally.sign_job",
    "PriceAboveMax": "retally.errors",
    "Prices": "retally.protocol.pricing",
    "RetallyError": "retally.errors",
    "SigningKey": "retally.protocol.eip712",
    "SpendingLimitExceeded": "retally.errors",
    "TransactionFailed": "retally.errors",
    "UnsupportedParameter": "retally.errors",
    "Wallet": "retally.wallet",
    "result_of": "retally.client",
    "run_checks": "retally.checks",
}

__all__ = [
    "AsyncClient",
    "BadRequest",
    "CapExceeded",
    "ChainUnreachable",
    "CheckResult",
    "Checks",
    "Client",
    "Domain",
    "Evidence",
    "InsufficientFunds",
    "InvalidReceipt",
    "InvalidSignature",
    "JobResult",
    "Keystore",
    "PaymentRequired",
    "PaymentTerms",
    "PriceAboveMax",
    "Prices",
    "RetallyError",
    "SigningKey",
    "SpendingLimitExceeded",
    "TransactionFailed",
    "UnsupportedParameter",
    "Wallet",
    "__version__",
    "result_of",
    "run_checks",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'retally' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
