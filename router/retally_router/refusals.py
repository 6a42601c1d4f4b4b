"""What a node's error says: about the request, about the node, or about neither."""

from __future__ import annotations

from retally.errors import BadRequest, InvalidReceipt, InvalidSignature, RetallyError

CHEATS = (InvalidReceipt, InvalidSignature, BadRequest)
# Said by a node about the request itself: another node would say the same.
FINAL = frozenset({400, 401, 404, 413, 422})
NOT_FINAL_CODES = frozenset({"offer_expired", "price_above_max", "remote_error"})


def is_final(error: RetallyError) -> bool:
    """Whether every other node would refuse the same."""
    return error.status in FINAL and error.code not in NOT_FINAL_CODES and not isinstance(error, CHEATS)


def is_failure(error: RetallyError) -> bool:
    """Whether the error speaks against the node."""
    return not is_final(error) and error.status not in (402, 409)


def pause_seconds(tries: int, draw: float) -> float:
    """How long to wait before the next node, `draw` in [0, 1): longer each time, so that routers don't move in step."""
    return draw * min(0.25, 0.01 * (1 << (tries - 1)))
