"""What stands under a commit's root, kept for the roots last asked for: a large one takes seconds to put together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from retally.errors import NotFound
from retally.protocol.encoding import Bytes32
from retally.protocol.merkle import leaf, prove, top_of
from retally_node.ledger import Ledger

#: Roots kept, some 30 MB for each hundred thousand receipts.
KEPT = 2
#: Leaves whose common node is kept, a power of two: the path of a leaf needs the hashes of its own block alone.
BLOCK = 512
#: Receipts read in a row before the event loop's other work gets its turn, some milliseconds' worth.
SLICE = 32


@dataclass(frozen=True, slots=True)
class Span:
    """A receipt's place on its channel's money line."""

    channel: bytes
    cum_from: int
    cum_to: int


class CommittedLeaves:
    """The leaves of a root, in order."""

    def __init__(self, ledger: Ledger, root: bytes) -> None:
        self.digests = ledger.commits.leaves(root)
        self._ledger = ledger
        self._hashes: list[Bytes32] = []
        self._spans: list[Span] = []
        self._tops: list[Bytes32] = []

    def put_together(self) -> Iterator[None]:
        """Read all receipts, a slice at each step; raises NotFound where the books lack one."""
        for start in range(0, len(self.digests), SLICE):
            for digest in self.digests[start : start + SLICE]:
                self._take(digest)
            if len(self._hashes) % BLOCK == 0 or len(self._hashes) == len(self.digests):
                self._tops.append(top_of(self._hashes[len(self._tops) * BLOCK :]))
            yield

    def _take(self, digest: bytes) -> None:
        record = self._ledger.jobs.receipt(digest)
        if record is None:
            raise NotFound("the books do not hold all receipts under this root")
        receipt = record.receipt
        self._hashes.append(leaf(digest + record.signature))
        self._spans.append(Span(receipt.channel.key, receipt.cum_from, receipt.cum_to))

    def proof(self, index: int) -> tuple[Bytes32, ...]:
        """The path of a leaf (R-14)."""
        start = index - index % BLOCK
        # A last block that is not full is promoted to its place: R-13 pairs from the left.
        inside = prove(self._hashes[start : start + BLOCK], index - start)
        return (*inside, *prove(self._tops, index // BLOCK))

    def covering(self, channel: bytes, point: int) -> int:
        """The leaf whose receipt bills a point of a channel."""
        for index, span in enumerate(self._spans):
            if span.channel == channel and span.cum_from <= point < span.cum_to:
                return index
        raise NotFound("no receipt under this commit covers the point", code="point_not_covered")


class LeafBook:
    """The leaves of the last few roots.

    The root is the key, not the commit: a reorganised chain may give a commit's number to another root.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, CommittedLeaves] = OrderedDict()

    async def leaves(self, ledger: Ledger, root: bytes) -> CommittedLeaves:
        """The leaves under a root, put together between other work; two who ask at once both do it.

        Raises NotFound where the books lack one.
        """
        # Not in a thread: the ledger's reader is one connection, which threads would have to take turns at.
        found = self._kept.get(root)
        if found is None:
            found = CommittedLeaves(ledger, root)
            for _ in found.put_together():
                await asyncio.sleep(0)
        return self._keep(root, found)

    def _keep(self, root: bytes, leaves: CommittedLeaves) -> CommittedLeaves:
        self._kept[root] = leaves
        self._kept.move_to_end(root)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return leaves
