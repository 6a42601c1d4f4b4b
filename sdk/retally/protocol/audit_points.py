"""Which units of collected money are audited (R-24, R-25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retally.protocol.case import Range
from retally.protocol.encoding import Address, Bytes32, address_bytes, keccak, u64, u256
from retally.protocol.voucher import channel_key


@dataclass(frozen=True, slots=True)
class AuditPoint:
    """One drawn unit of money of a commit."""

    range_index: int
    channel: Bytes32
    k: int
    point: int


def commit_seed(blockhash: bytes, escrow: Address, commit_id: int, receipts_root: bytes) -> Bytes32:
    """The seed of a commit, which did not exist when it was made."""
    return keccak(blockhash + address_bytes(escrow) + u64(commit_id) + receipts_root)


def point_of(seed: bytes, channel: bytes, k: int, step: int) -> int:
    """The k-th point of a channel, whether or not it lies in a range."""
    return k * step + int.from_bytes(keccak(seed + channel + u256(k)), "big") % step


def drawn_points(seed: bytes, ranges: Sequence[Range], node: Address, step: int) -> list[AuditPoint]:
    """All audited points of a commit, in (range, k) order."""
    drawn = []
    for index, item in enumerate(ranges):
        channel = channel_key(item.payer, item.signer, node, item.lane)
        for k in range(item.before // step, -(-item.after // step)):
            point = point_of(seed, channel, k, step)
            if item.before <= point < item.after:
                drawn.append(AuditPoint(index, channel, k, point))
    return drawn
