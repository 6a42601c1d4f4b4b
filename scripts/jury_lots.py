"""How a jury is drawn (R-61), written a second time: what the contract must agree with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from retally.protocol.encoding import keccak

LOTS_PER_SEAT, SPARE_LOTS = 4, 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A pool's entry: what it weighs as enlisted, and what it is worth now (0 if its owner may not sit)."""

    owner: str
    weight: int
    worth: int


def draw(seed: bytes, size: int, entries: Sequence[Entry], seated: Collection[str] = ()) -> list[str]:
    """The jury: fewer when fewer may sit; who sat before comes last."""
    line = [(entry, 0, entry.weight) for entry in entries]  # what is left of each entry: owner, from, upto
    jury: list[str] = []
    spare: list[str] = []
    for turn in range(LOTS_PER_SEAT * size + SPARE_LOTS):
        left = sum(upto - start for _, start, upto in line)
        if left == 0 or len(jury) == size:
            break
        point = int.from_bytes(keccak(seed + turn.to_bytes(32, "big")), "big") % left
        place = 0
        while point >= line[place][2] - line[place][1]:
            point -= line[place][2] - line[place][1]
            place += 1
        entry, start, upto = line[place]
        worth = min(entry.worth, entry.weight)
        if start + point < worth:
            (spare if entry.owner in seated else jury).append(entry.owner)
            line[place] = (entry, worth, upto)
        else:
            line[place] = (entry, start, worth)
    return (jury + spare)[:size]
