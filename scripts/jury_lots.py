"""How a jury is drawn (R-61), written a second time: what the contract must agree with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from retally.protocol.encoding import keccak

SPARE_LOTS = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A pool's entry: what it weighs as enlisted, and what it is worth now (0 if its owner may not sit)."""

    owner: str
    weight: int
    worth: int


def draw(seed: bytes, size: int, entries: Sequence[Entry], seated: Collection[str] = ()) -> list[str]:
    """The jury: fewer when fewer may sit; who sat before comes last."""
    line = [entry for entry in entries if entry.weight]  # those that no lot has hit
    jury: list[str] = []
    spare: list[str] = []
    for turn in range(size * 3 // 2 + SPARE_LOTS):
        left = sum(entry.weight for entry in line)
        if left == 0 or len(jury) == size:
            break
        point = int.from_bytes(keccak(seed + turn.to_bytes(32, "big")), "big") % left
        place = 0
        while point >= line[place].weight:
            point -= line[place].weight
            place += 1
        entry = line.pop(place)
        if point < entry.worth:
            (spare if entry.owner in seated else jury).append(entry.owner)
    return (jury + spare)[:size]
