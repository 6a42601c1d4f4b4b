"""What a 402 says beside its message: what to pay, where and how, in the header of x402, version 2.

The header is `PAYMENT-REQUIRED`, base64 of a `PaymentRequired` object. x402's schemes pay for one answer by one
transfer; here a payer funds an escrow and vouches per token, so the scheme is our own and stock x402 clients, which
choose among the schemes that they know, pass it over.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from retally.errors import CapExceeded, InsufficientFunds, PaymentRequired, RetallyError
from retally.protocol.eip712 import Address, Domain

X402_VERSION = 2
SCHEME = "retally-escrow"
# Until a deposit is in a block and this router has read it.
TIMEOUT_SECONDS = 300
_DEPOSIT = {
    "action": "deposit",
    "function": "deposit(address payer, uint96 amount)",
    "how": "approve the escrow for the asset and deposit for the payer; `retally deposit` does both",
}
_AUTHORIZE = {
    "action": "authorizeSigner",
    "function": "authorizeSigner(address,uint96,uint40,uint40,bytes32,bytes32)",
    "how": "raise the signer's cap, or make a new key: `retally keys create --cap`",
}
_NEW_KEY = {"action": "createKey", "how": "make a key with a higher spendTotal: `retally keys create --total`"}


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """Where this router's payers pay."""

    domain: Domain
    asset: Address | None

    def on(self, error: RetallyError, path: str, headers: Mapping[bytes, bytes]) -> RetallyError:
        """The error, with what to pay if it is about money."""
        if error.status == 402 and self.asset is not None and "payment-required" not in error.headers:
            stated = b64encode(msgspec.json.encode(self._stated(error, _url_of(path, headers), self.asset))).decode()
            error.headers = {**error.headers, "payment-required": stated}
        return error

    def _stated(self, error: RetallyError, url: str, asset: Address) -> dict[str, Any]:
        requirement = {
            "scheme": SCHEME,
            "network": f"eip155:{self.domain.chain_id}",
            "amount": str(missing_of(error)),
            "asset": asset,
            "payTo": self.domain.escrow,
            "maxTimeoutSeconds": TIMEOUT_SECONDS,
            "extra": _way_of(error),
        }
        return {
            "x402Version": X402_VERSION,
            "error": error.message,
            "resource": {"url": url, "description": "inference, paid per token"},
            "accepts": [requirement],
        }


def missing_of(error: RetallyError) -> int:
    """What lacks, in the asset's smallest unit; 0 where only a node knows."""
    if isinstance(error, InsufficientFunds):
        return error.needed - error.available
    if isinstance(error, CapExceeded):
        return error.needed - error.left
    asked, left = str(error.details.get("asked", "")), str(error.details.get("left", ""))
    return int(asked) - int(left) if asked.isdecimal() and left.isdecimal() else 0


def _way_of(error: RetallyError) -> Mapping[str, str]:
    if isinstance(error, CapExceeded):
        return _AUTHORIZE
    if isinstance(error, PaymentRequired) and error.code == "key_limit_exceeded":
        return _NEW_KEY
    return _DEPOSIT


def _url_of(path: str, headers: Mapping[bytes, bytes]) -> str:
    # TLS ends in a proxy, which says so.
    scheme = headers.get(b"x-forwarded-proto", b"http").decode("latin-1")
    return f"{scheme}://{headers.get(b'host', b'').decode('latin-1')}{path}"
