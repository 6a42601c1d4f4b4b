"""Show that a job's receipts lie under commits, to whoever holds the job's id."""

from __future__ import annotations

import asyncio

from retally.inclusion import Inclusion
from retally.protocol.receipt import ReceiptLeaf
from retally_node.committed_leaves import LeafBook
from retally_node.ledger import Ledger
from retally_node.records import ReceiptRecord


class Inclusions:
    """Where receipts stand. Anybody may ask: one question at a time is worked on, between other work."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Not the auditors' book: strangers' questions shall not push out what those ask for.
        self._book = LeafBook()
        self._turn = asyncio.Lock()

    async def of(self, job_id: bytes) -> list[Inclusion]:
        """Where each committed receipt of a job stands; one that straddles two commits stands under both."""
        async with self._turn:
            return [found for record in self._ledger.jobs.receipts(job_id) for found in await self._under(record)]

    async def _under(self, record: ReceiptRecord) -> list[Inclusion]:
        found = []
        for commit in self._ledger.commits.commits_with(record.digest):
            leaves = await self._book.leaves(self._ledger, commit.record.receipts_root)
            index = leaves.digests.index(record.digest)
            own = ReceiptLeaf(record.receipt, record.signature)
            found.append(Inclusion(own, commit.record, index, len(leaves.digests), leaves.proof(index)))
        return found
