"""Every error of retally, one tree, one table to HTTP.

RetallyError
├── BadRequest                 the request itself is wrong
│   ├── InvalidReceipt · VoucherMismatch · OfferExpired · DeadlinePassed
│   └── ContextExceeded · UnsupportedParameter · PriceAboveMax
├── Unauthorized               the caller did not prove who it is
│   └── InvalidSignature · SignerExpired
├── PaymentRequired            the money is not there
│   └── VoucherTooLow · CapExceeded · InsufficientFunds · SpendingLimitExceeded
├── NotFound
│   └── UnknownModel
├── Conflict
│   └── DuplicateJob
├── PayloadTooLarge
├── RateLimited
├── UpstreamTimeout
├── Unavailable                try later or elsewhere
│   └── ChainUnreachable · EngineUnavailable · NodeUnavailable
├── TransactionFailed          a contract refused, with its decoded custom error
└── RemoteError                what another service answered, with its own code
"""

from __future__ import annotations

from retally.errors.refusals import (
    CapExceeded,
    ChainUnreachable,
    ContextExceeded,
    DeadlinePassed,
    DuplicateJob,
    EngineUnavailable,
    InsufficientFunds,
    InvalidReceipt,
    InvalidSignature,
    NodeUnavailable,
    OfferExpired,
    PriceAboveMax,
    SignerExpired,
    SpendingLimitExceeded,
    UnknownModel,
    UnsupportedParameter,
    VoucherMismatch,
    VoucherTooLow,
)
from retally.errors.tree import (
    STATUS,
    BadRequest,
    Conflict,
    NotFound,
    PayloadTooLarge,
    PaymentRequired,
    RateLimited,
    RemoteError,
    RetallyError,
    TransactionFailed,
    Unauthorized,
    Unavailable,
    UpstreamTimeout,
    error_of_envelope,
    openai_envelope,
)

__all__ = [
    "STATUS",
    "BadRequest",
    "CapExceeded",
    "ChainUnreachable",
    "Conflict",
    "ContextExceeded",
    "DeadlinePassed",
    "DuplicateJob",
    "EngineUnavailable",
    "InsufficientFunds",
    "InvalidReceipt",
    "InvalidSignature",
    "NodeUnavailable",
    "NotFound",
    "OfferExpired",
    "PayloadTooLarge",
    "PaymentRequired",
    "PriceAboveMax",
    "RateLimited",
    "RemoteError",
    "RetallyError",
    "SignerExpired",
    "SpendingLimitExceeded",
    "TransactionFailed",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "UnsupportedParameter",
    "UpstreamTimeout",
    "VoucherMismatch",
    "VoucherTooLow",
    "error_of_envelope",
    "openai_envelope",
]
