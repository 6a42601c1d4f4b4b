"""What a refusal means: of the request itself, of this node alone, of a cheat, or of what no node can help."""

from __future__ import annotations

from retally.errors import (
    BadRequest,
    CapExceeded,
    ChainUnreachable,
    InsufficientFunds,
    InvalidReceipt,
    InvalidSignature,
    RetallyError,
    SignerExpired,
    Unavailable,
)

CHEATS = (InvalidReceipt, InvalidSignature, BadRequest)
# Said by this router of a payer that has too little for one node.
SHORT = (CapExceeded, InsufficientFunds)
# Said by this router, by what it knows of the payer and by what it stands on; a node's word is a RemoteError.
OWN = (*SHORT, SignerExpired, ChainUnreachable)
# Said by a node about the request itself: another node would say the same.
FINAL = frozenset({400, 401, 404, 413, 422})
NOT_FINAL_CODES = frozenset({"offer_expired", "price_above_max", "remote_error"})


def is_final(error: RetallyError) -> bool:
    """Whether no other node could do better."""
    if isinstance(error, OWN) or type(error) is Unavailable:
        return True
    return error.status in FINAL and error.code not in NOT_FINAL_CODES and not isinstance(error, CHEATS)
