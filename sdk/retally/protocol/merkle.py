"""Merkle trees of receipts and of token ids (R-13 to R-17)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from struct import pack

from retally.protocol.eip712 import Domain
from retally.protocol.encoding import ZERO_BYTES32, Bytes32, keccak, u32
from retally.protocol.receipt import ReceiptLeaf

CHUNK = 32
MAX_Q = 65535


def leaf(data: bytes) -> Bytes32:
    """The hash of a leaf."""
    return keccak(b"\x00" + data)


def _inner(left: bytes, right: bytes) -> Bytes32:
    return keccak(b"\x01" + left + right)


def seal(count: int, top: bytes) -> Bytes32:
    """The root of a tree, which binds its count."""
    return keccak(b"\x02" + u32(count) + top)


def _next_level(level: Sequence[Bytes32]) -> list[Bytes32]:
    paired = [_inner(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return [*paired, level[-1]] if len(level) % 2 else paired


def root(leaves: Sequence[Bytes32], count: int | None = None) -> Bytes32:
    """The root over leaf hashes; `count` is what the root binds, if not the number of leaves."""
    return seal(len(leaves) if count is None else count, top_of(leaves))


def top_of(leaves: Sequence[Bytes32]) -> Bytes32:
    """The last node of a tree, which its root seals with a count."""
    level = list(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return level[0] if level else ZERO_BYTES32


def prove(leaves: Sequence[Bytes32], index: int) -> list[Bytes32]:
    """The siblings of a leaf, from the leaf up."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    level, proof = list(leaves), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        level, index = _next_level(level), index // 2
    return proof


def verify(
    root_hash: bytes, leaf_hash: bytes, index: int, leaf_count: int, root_count: int, proof: Sequence[bytes]
) -> bool:
    """Whether the leaf stands at that index under the root; unused or missing siblings are invalid."""
    if not 0 <= index < leaf_count or root_count >= 1 << 32:
        return False
    node, width, siblings = leaf_hash, leaf_count, iter(proof)
    while width > 1:
        if index ^ 1 < width:
            sibling = next(siblings, None)
            if sibling is None or len(sibling) != 32:
                return False
            node = _inner(sibling, node) if index % 2 else _inner(node, sibling)
        index, width = index // 2, (width + 1) // 2
    return next(siblings, None) is None and seal(root_count, node) == root_hash


class _GrowingTree:
    """Peaks of perfect subtrees: appending and reading the root both cost O(log n)."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, Bytes32]] = []

    def append(self, leaf_hash: Bytes32) -> None:
        height, node = 0, leaf_hash
        while self._peaks and self._peaks[-1][0] == height:
            node = _inner(self._peaks.pop()[1], node)
            height += 1
        self._peaks.append((height, node))

    def top(self, last: Bytes32 | None = None) -> Bytes32:
        """The top with one more leaf that may still change."""
        nodes = [node for _, node in self._peaks]
        if last is not None:
            nodes.append(last)
        if not nodes:
            return ZERO_BYTES32
        top = nodes.pop()
        while nodes:
            top = _inner(nodes.pop(), top)
        return top


class IdsTree:
    """The growing root over token ids (R-16)."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.count = 0
        self._tree = _GrowingTree()
        self._open: list[int] = []
        self.append(ids)

    def append(self, ids: Iterable[int]) -> None:
        """Adds ids at the end."""
        self._open.extend(ids)
        # The rest is cut off once: of vectors, hundreds of thousands come at a time.
        whole = len(self._open) - len(self._open) % CHUNK
        for start in range(0, whole, CHUNK):
            self._tree.append(leaf(_ids_data(self.count, self._open[start : start + CHUNK])))
            self.count += CHUNK
        del self._open[:whole]

    def root(self) -> Bytes32:
        """The root over all ids so far."""
        last = leaf(_ids_data(self.count, self._open)) if self._open else None
        return seal(self.count + len(self._open), self._tree.top(last))


class OutputTree:
    """The growing root over a segment's output (R-17)."""

    def __init__(self, first_position: int = 0) -> None:
        self.first_position = first_position
        self._tree = _GrowingTree()
        self._closed = 0
        self._ids: list[int] = []
        self._qs: list[int] = []

    @property
    def count(self) -> int:
        """How many tokens the segment has so far."""
        return self._closed + len(self._ids)

    def append(self, ids: Sequence[int], quantised: Sequence[int]) -> None:
        """Adds tokens with their quantised logprobs."""
        if len(ids) != len(quantised):
            raise ValueError(f"{len(ids)} ids, {len(quantised)} logprobs")
        self._ids.extend(ids)
        self._qs.extend(quantised)
        whole = len(self._ids) - len(self._ids) % CHUNK
        for start in range(0, whole, CHUNK):
            part = slice(start, start + CHUNK)
            self._tree.append(leaf(self._data(self._ids[part], self._qs[part])))
            self._closed += CHUNK
        del self._ids[:whole], self._qs[:whole]

    def _data(self, ids: Sequence[int], quantised: Sequence[int]) -> bytes:
        return output_data(self.first_position + self._closed, ids, quantised)

    def root(self) -> Bytes32:
        """The root over the segment so far."""
        last = leaf(self._data(self._ids, self._qs)) if self._ids else None
        return seal(self.count, self._tree.top(last))


def _ids_data(position: int, ids: Sequence[int]) -> bytes:
    return pack(f">{len(ids) + 1}I", position, *ids)


def output_data(position: int, ids: Sequence[int], quantised: Sequence[int]) -> bytes:
    """The data of one output leaf."""
    return pack(f">{len(ids) + 1}I{len(quantised)}H", position, *ids, *quantised)


_NO_IDS = seal(0, ZERO_BYTES32)


def ids_leaves(ids: Sequence[int]) -> list[Bytes32]:
    """The leaf hashes of a token-id tree."""
    return [leaf(_ids_data(i, ids[i : i + CHUNK])) for i in range(0, len(ids), CHUNK)]


def ids_root(ids: Sequence[int]) -> Bytes32:
    """The root of a prompt or prefix (R-16)."""
    if not ids:
        return _NO_IDS
    return root(ids_leaves(ids), len(ids))


def output_leaves(first_position: int, ids: Sequence[int], quantised: Sequence[int]) -> list[Bytes32]:
    """The leaf hashes of a segment's output."""
    if len(ids) != len(quantised):
        raise ValueError(f"{len(ids)} ids, {len(quantised)} logprobs")
    step = range(0, len(ids), CHUNK)
    return [leaf(output_data(first_position + i, ids[i : i + CHUNK], quantised[i : i + CHUNK])) for i in step]


def output_root(first_position: int, ids: Sequence[int], quantised: Sequence[int]) -> Bytes32:
    """The root of a segment's output (R-17)."""
    return root(output_leaves(first_position, ids, quantised), len(ids))


def quantise_logprob(logprob: float) -> int:
    """A logprob in 1/1024 nat, as 16 bits."""
    if math.isnan(logprob) or logprob == -math.inf:
        return MAX_Q
    return max(0, min(MAX_Q, round(-logprob * 1024)))


def sort_receipts(leaves: Iterable[ReceiptLeaf]) -> list[ReceiptLeaf]:
    """The leaves in the order of their tree (R-15)."""
    return sorted(leaves, key=lambda item: item.order)


def receipts_leaves(leaves: Sequence[ReceiptLeaf], domain: Domain) -> list[Bytes32]:
    """The leaf hashes of a receipts tree; refuses a wrong order."""
    orders = [item.order for item in leaves]
    if any(a >= b for a, b in pairwise(orders)):
        raise ValueError("receipts are not sorted by channel and cumFrom, or repeat")
    return [leaf(item.data(domain)) for item in leaves]


def receipts_root(leaves: Sequence[ReceiptLeaf], domain: Domain) -> Bytes32:
    """The root that a commit puts on chain."""
    return root(receipts_leaves(leaves, domain))


EMPTY_ROOT = root([])
