"""What a node's refusal means: of the request itself, of this node alone, or of a cheat."""

from __future__ import annotations

from retally.errors import BadRequest, InvalidReceipt, InvalidSignature, RetallyError

CHEATS = (InvalidReceipt, InvalidSignature, BadRequest)
# Said by a node about the request itself: another node would say the same.
FINAL = frozenset({400, 401, 404, 413, 422})
NOT_FINAL_CODES = frozenset({"offer_expired", "price_above_max", "remote_error"})


def is_final(error: RetallyError) -> bool:
    """Whether every other node would refuse the same."""
    return error.status in FINAL and error.code not in NOT_FINAL_CODES and not isinstance(error, CHEATS)
